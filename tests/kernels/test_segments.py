"""Bounds of sequences on the time axis, and what is wrong with them."""

from __future__ import annotations

import pytest
import torch

from ssmtool_kernels.backends import BackendError, preferring, resolve
from ssmtool_kernels.segments import offsets, resets_of
from ssmtool_kernels.varying_scan import varying_scan, varying_step

CPU = torch.device("cpu")


def test_a_batch_is_equal_parts() -> None:
    assert offsets(3, 5, None, CPU).tolist() == [0, 5, 10, 15]


def test_packed_sequences_may_be_empty() -> None:
    assert offsets(1, 7, torch.tensor([0, 0, 4, 7], dtype=torch.int32), CPU).tolist() == [0, 0, 4, 7]


@pytest.mark.parametrize(
    ("batch", "bounds", "said"),
    [
        (2, [0, 7], "batch of 1"),
        (1, [1, 7], "rise from 0 to L = 7"),
        (1, [0, 6], "rise from 0 to L = 7"),
        (1, [0, 5, 3, 7], "without falling"),
        (1, [[0, 7]], "integers"),
        (1, [0.0, 7.0], "integers"),
    ],
)
def test_bounds_that_make_no_sense(batch: int, bounds: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        offsets(batch, 7, torch.tensor(bounds), CPU)


@pytest.mark.parametrize(
    "mask", [torch.zeros(2, 6, dtype=torch.bool), torch.zeros(2, 7), torch.zeros(7, dtype=torch.bool)]
)
def test_masks_of_another_kind(mask: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="bool"):
        resets_of(mask, 2, 7, CPU)


def test_a_reset_makes_separate_sequences() -> None:
    g = torch.Generator().manual_seed(0)
    a, v = (torch.randn(1, 12, 3, generator=g, dtype=torch.float64) for _ in range(2))
    mask = torch.zeros(1, 12, dtype=torch.bool)
    mask[0, 5] = True
    h, last = varying_scan(a, v, torch.ones(1, 3, dtype=torch.float64), resets=mask)
    first, _ = varying_scan(a[:, :5], v[:, :5], torch.ones(1, 3, dtype=torch.float64))
    second, end = varying_scan(a[:, 5:], v[:, 5:])
    assert torch.equal(h, torch.cat([first, second], 1))
    assert torch.equal(last, end)


def test_half_precision_is_computed_in_single() -> None:
    g = torch.Generator().manual_seed(0)
    a, v = (torch.rand(1, 300, 4, generator=g) for _ in range(2))
    for dtype in (torch.bfloat16, torch.float16):
        h, last = varying_scan(a.to(dtype), v.to(dtype))
        exact, _ = varying_scan(a.to(dtype).double(), v.to(dtype).double(), backend="naive")
        assert h.dtype == last.dtype == dtype
        assert (h.double() - exact).norm() < torch.finfo(dtype).eps * exact.norm()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((torch.zeros(2, 3), torch.zeros(2, 3)), r"a has shape \(2, 3\): \(b, L, n\) is needed"),
        ((torch.zeros(2, 3, 4), torch.zeros(2, 3, 5)), r"v has shape \(2, 3, 5\) instead of \(2, 3, 4\)"),
        ((torch.zeros(2, 3, 4), torch.zeros(2, 3, 4, dtype=torch.float64)), "v is torch.float64, a is torch.float32"),
        ((torch.zeros(2, 3, 4), torch.zeros(2, 3, 4, device="meta")), "v is on meta, a on cpu"),
        ((torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), torch.zeros(3, 4)), r"h0 has shape \(3, 4\) instead of \(2, 4\)"),
    ],
)
def test_inputs_that_do_not_fit(arguments: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        varying_scan(*arguments)


def test_a_preferred_backend_ends_with_its_block() -> None:
    with preferring("naive"):
        assert resolve("auto", torch.zeros(1)) == "naive"
    assert resolve("auto", torch.zeros(1)) != "naive"


def test_no_such_backend() -> None:
    with pytest.raises(BackendError, match="there are auto, naive"):
        resolve("cuda", torch.zeros(1))
    with pytest.raises(BackendError, match="there are auto, naive"), preferring("fast"):
        pass


@pytest.mark.parametrize("backend", ["naive", "torch", "auto"])
def test_nothing_in_nothing_out(backend: str) -> None:
    nothing = torch.zeros(2, 0, 3)
    h, last = varying_scan(nothing, nothing, backend=backend)
    assert h.shape == (2, 0, 3)
    assert torch.equal(last, torch.zeros(2, 3))


def test_steps_are_the_naive_scan_bit_for_bit_and_the_fast_one_within_rounding() -> None:
    g = torch.Generator().manual_seed(1)
    a, v = (torch.rand(2, 20, 5, generator=g) for _ in range(2))
    h, states = torch.zeros(2, 5), []
    for t in range(20):
        h = varying_step(a[:, t], v[:, t], h)
        states.append(h)
    stepped = torch.stack(states, 1)
    assert torch.equal(stepped, varying_scan(a, v, backend="naive")[0])
    assert torch.allclose(stepped, varying_scan(a, v)[0], rtol=1e-6, atol=0)
