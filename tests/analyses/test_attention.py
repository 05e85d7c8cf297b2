"""Hidden attention: a naive loop, the scan itself, and a closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ssmtool.analyses._attention import ReachMeter, hidden_attention
from ssmtool.selective.forward import forward
from ssmtool.selective.mixers import DiagonalMixer, to_torch
from tests.analyses.mixers import constant, random_diagonal, random_scalar, stream

MIXERS = {
    "diagonal": random_diagonal(),
    "diagonal, groups": random_diagonal(inner=6, groups=3),
    "scalar": random_scalar(width=4),
    "scalar, projected": replace(
        random_scalar(width=4),
        project_b=np.random.default_rng(0).normal(size=(2, 3, 5)),
        project_c=np.random.default_rng(1).normal(size=(2, 3, 5)),
    ),
}


def whole(mixer, trace):
    length, units = trace.dt.shape[1:]
    return hidden_attention(mixer, trace, torch.arange(length), torch.arange(units))


@pytest.mark.parametrize("name", MIXERS)
def test_attention_times_input_is_the_output_of_the_scan(name):
    mixer = to_torch(MIXERS[name], torch.float64)
    _, _, trace = forward(mixer, stream())
    alpha = whole(mixer, trace)
    skip = mixer.d_skip
    if isinstance(mixer, DiagonalMixer):
        y = torch.einsum("bcts,bsc->btc", alpha, trace.x) + skip * trace.x
    else:
        y = torch.einsum("bhts,bshp->bthp", alpha, trace.x) + skip * trace.x
    torch.testing.assert_close(y, trace.y, rtol=1e-9, atol=1e-9)


def test_a_naive_loop():
    mixer = to_torch(random_diagonal(), torch.float64)
    _, _, trace = forward(mixer, stream(batch=1, length=7))
    alpha, a = whole(mixer, trace)[0], mixer.a_log.exp()
    for e in range(6):
        for t in range(7):
            for s in range(7):
                if s > t:
                    assert alpha[e, t, s] == 0
                    continue
                value = 0.0
                for n in range(3):
                    decay = 1.0
                    for k in range(s + 1, t + 1):
                        decay *= float(torch.exp(-trace.dt[0, k, e] * a[e, n]))
                    value += float(trace.C[0, t, 0, n] * decay * trace.dt[0, s, e] * trace.B[0, s, 0, n])
                assert float(alpha[e, t, s]) == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_a_known_exponential():
    """One state, constant everything: |alpha| ~ q^d, so that every figure is a truncated geometric series."""
    rate, step, length = 1.0, 0.2, 400
    mixer = to_torch(constant([[rate]], step), torch.float64)
    _, _, trace = forward(mixer, stream(batch=2, length=length, width=2))
    meter = ReachMeter()
    meter.add(mixer, trace)
    found = meter.result()
    q = np.exp(-rate * step)
    assert found.recency == pytest.approx(-rate * step, rel=1e-6)
    assert found.mean_distance == pytest.approx(q / (1 - q), rel=1e-6)  # q^200 is 1e-17
    assert found.ninety == np.ceil(np.log(0.1) / np.log(q)) - 1
    expected = [1 - q, *(q ** (2**j) - q ** (2 ** (j + 1)) for j in range(len(found.shares) - 1))]
    np.testing.assert_allclose(found.shares, expected, atol=1e-9)
    assert sum(found.shares) == pytest.approx(1)


def test_without_anything_seen_there_is_no_reach():
    assert ReachMeter().result().mean_distance is None
