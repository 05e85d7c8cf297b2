"""Prefill, continuation and steps of a mixer agree; a backward mixer reads backwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ssmtool.errors import FamilyError
from ssmtool.selective.forward import forward
from ssmtool.selective.mixers import to_numpy
from tests.selective.mixers import MIXERS, diagonal, inputs, run_on

EVERY = pytest.mark.parametrize("name", MIXERS)


@EVERY
def test_steps_equal_prefill(name: str) -> None:
    mixer, x = run_on(MIXERS[name]), inputs()
    whole, memory, _ = forward(mixer, x)
    parts, carried = [], None
    for t in range(x.shape[1]):
        out, carried, _ = forward(mixer, x[:, t : t + 1], carried)
        parts.append(out)
    assert carried is not None
    assert torch.allclose(torch.cat(parts, 1), whole, rtol=1e-11, atol=1e-11)
    assert torch.allclose(carried.h, memory.h, rtol=1e-11, atol=1e-11)


@EVERY
def test_gain_and_out_make_the_output_from_the_scan(name: str) -> None:
    mixer, x = run_on(MIXERS[name]), inputs()
    out, _, trace = forward(mixer, x)
    again = (trace.y.reshape(trace.gain.shape) * trace.gain) @ mixer.out.T + mixer.out_bias
    assert torch.allclose(out, again, rtol=1e-11, atol=1e-11)


@EVERY
def test_reverse_flips_time(name: str) -> None:
    mixer, x = run_on(MIXERS[name]), inputs()
    backward, _, _ = forward(replace(mixer, reverse=True), x)
    straight, _, _ = forward(mixer, x.flip(1))
    assert torch.equal(backward, straight.flip(1))


def test_backward_mixers_keep_no_memory() -> None:
    mixer, x = replace(run_on(MIXERS["mamba1"]), reverse=True), inputs()
    _, memory, _ = forward(mixer, x)
    with pytest.raises(FamilyError, match="backwards"):
        forward(mixer, x, memory)


def test_a_core_alone_cannot_run() -> None:
    with pytest.raises(FamilyError, match="not a sequence model"):
        forward(replace(run_on(diagonal()), in_x=None), inputs())


@EVERY
def test_conversion_keeps_every_number(name: str) -> None:
    again = to_numpy(run_on(MIXERS[name]))
    for field, value in vars(MIXERS[name]).items():
        other = getattr(again, field)
        assert value is None or (value == other).all() if hasattr(value, "shape") else value == other
