"""Accumulated moments against sums written out one state at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssmtool.errors import CalibrationError
from ssmtool.selective.forward import forward
from ssmtool.selective.mixers import DiagonalMixer
from ssmtool.selective.statistics import Statistics, states
from tests.selective.mixers import MIXERS, diagonal, inputs, run_on, scalar
from tests.selective.moments import measured

EVERY = pytest.mark.parametrize("name", MIXERS)


@EVERY
def test_states_give_the_scan_output(name: str) -> None:
    mixer = run_on(MIXERS[name])
    _, _, trace = forward(mixer, inputs())
    for t, h in states(mixer, trace):
        y = torch.einsum("bgen,bgn->bge", h, trace.C[:, t])
        skipped = trace.x[:, t] * mixer.d_skip
        assert torch.allclose(y.flatten(1) + skipped.flatten(1), trace.y[:, t].flatten(1), rtol=1e-11, atol=1e-11)


@EVERY
def test_moments_are_the_plain_sums(name: str) -> None:
    mixer = run_on(MIXERS[name])
    found, trace = measured(mixer, inputs())
    groups, n = mixer.groups, mixer.states
    reach, observe, joint = (np.zeros((groups, n, n)) for _ in range(3))
    coupling, ghost, count = np.zeros((groups, n, n, n, n)), np.zeros((groups, n)), 0
    columns = mixer.out.square().sum(0).numpy()
    for t, h in states(mixer, trace):
        for b in range(h.shape[0]):
            count += 1
            for g in range(groups):
                c = trace.C[b, t, g].numpy()
                observe[g] += np.outer(c, c)
                for e in range(h.shape[2]):
                    channel = g * h.shape[2] + e
                    weight = trace.gain[b, t, channel].item() ** 2 * columns[channel]
                    v = h[b, g, e].numpy()
                    reach[g] += weight * np.outer(v, v)
                    joint[g] += weight * np.outer(c * v, c * v)
                    coupling[g] += weight * np.einsum("c,i,k,j->cikj", c, v, c, v)
                    ghost[g] += (c * v) ** 2
    for a, b in ((found.reachability, reach), (found.observability, observe), (found.joint, joint)):
        np.testing.assert_allclose(a, b / count, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.ghost, ghost / count, rtol=1e-10)
    if isinstance(mixer, DiagonalMixer):
        assert found.coupling is not None
        np.testing.assert_allclose(found.coupling, coupling / count, rtol=1e-10, atol=1e-11)
    assert found.samples == count


def test_batches_add_up_to_the_whole() -> None:
    mixer, x = run_on(scalar()), inputs(4)
    whole, _ = measured(mixer, x)
    parts = Statistics(mixer)
    for part in x.split(1):
        out, _, trace = forward(mixer, part)
        parts.update(trace, out)
    np.testing.assert_allclose(parts.result().reachability, whole.reachability, rtol=1e-12)
    assert parts.result().tokens == whole.tokens == 80


def test_stride_measures_the_last_state_of_each() -> None:
    mixer = run_on(diagonal())
    found, trace = measured(mixer, inputs(length=10), stride=4)
    assert [t for t, _ in states(mixer, trace, 4)] == [3, 7]
    assert found.samples == 2 * 3


@EVERY
def test_strides_skip_states_and_change_none(name: str) -> None:
    mixer = run_on(MIXERS[name])
    _, _, trace = forward(mixer, inputs(length=19))
    every = {t: h.clone() for t, h in states(mixer, trace)}
    some = {t: h.clone() for t, h in states(mixer, trace, 4)}
    assert list(some) == [3, 7, 11, 15]
    for t, h in some.items():
        assert torch.allclose(h, every[t], rtol=1e-11, atol=1e-13)


def test_without_tokens_there_is_no_result() -> None:
    with pytest.raises(CalibrationError, match="no tokens"):
        Statistics(run_on(diagonal())).result()


def test_infinite_states_are_an_error() -> None:
    with pytest.raises(CalibrationError, match="not finite"):
        measured(run_on(diagonal()), inputs() * float("inf"))
