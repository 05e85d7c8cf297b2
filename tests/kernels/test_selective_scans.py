"""The selective scans against the explicit sum over the past, and their faster forms against the naive ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssmtool_kernels.selective_scan import selective_scan, selective_scan_stepwise
from ssmtool_kernels.ssd import ssd, ssd_chunked

F64 = torch.float64
SHAPES = [(1, 1, 2, 1, 1), (2, 37, 6, 3, 5), (3, 16, 4, 2, 1), (1, 65, 8, 1, 7)]  # b, L, E, G, N


def mamba1(b: int, length: int, channels: int, groups: int, states: int, seed: int = 0) -> list[Tensor]:
    """x, dt, A, B, C, D, h0."""
    g = torch.Generator().manual_seed(seed)
    return [
        torch.randn(b, length, channels, generator=g, dtype=F64),
        2 * torch.rand(b, length, channels, generator=g, dtype=F64),
        -3 * torch.rand(channels, states, generator=g, dtype=F64),
        torch.randn(b, length, groups, states, generator=g, dtype=F64),
        torch.randn(b, length, groups, states, generator=g, dtype=F64),
        torch.randn(channels, generator=g, dtype=F64),
        torch.randn(b, channels, states, generator=g, dtype=F64),
    ]


def mamba2(b: int, length: int, heads: int, groups: int, states: int, seed: int = 0) -> list[Tensor]:
    """x, dt, A, B, C, D, h0 with heads of width 3."""
    g = torch.Generator().manual_seed(seed)
    return [
        torch.randn(b, length, heads, 3, generator=g, dtype=F64),
        2 * torch.rand(b, length, heads, generator=g, dtype=F64),
        -3 * torch.rand(heads, generator=g, dtype=F64),
        torch.randn(b, length, groups, states, generator=g, dtype=F64),
        torch.randn(b, length, groups, states, generator=g, dtype=F64),
        torch.randn(heads, 1, generator=g, dtype=F64),
        torch.randn(b, heads, 3, states, generator=g, dtype=F64),
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_mamba1_is_the_sum_over_the_past(shape: tuple[int, ...]) -> None:
    x, dt, A, B, C, D, h0 = mamba1(*shape)
    length, channels = x.shape[1:]
    groups = B.shape[2]
    y, _ = selective_scan(x, dt, A, B, C, D, h0)
    total = dt.cumsum(1)
    for e in range(channels):
        g = e // (channels // groups)
        for t in (0, length // 2, length - 1):
            decay = torch.exp((total[:, t : t + 1, e] - total[:, : t + 1, e])[..., None] * A[e])
            past = decay * B[:, : t + 1, g] * (dt * x)[:, : t + 1, e, None]
            h = past.sum(1) + torch.exp(total[:, t, e, None] * A[e]) * h0[:, e]
            expected = (C[:, t, g] * h).sum(-1) + D[e] * x[:, t, e]
            assert torch.allclose(y[:, t, e], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
def test_mamba2_is_masked_attention(shape: tuple[int, ...]) -> None:
    x, dt, A, B, C, D, _ = mamba2(*shape)
    y, _ = ssd(x, dt, A, B, C, D)
    total = (dt * A).cumsum(1)
    share = x.shape[2] // B.shape[2]
    for j in range(x.shape[2]):
        span = total[:, :, None, j] - total[:, None, :, j]
        weights = (C[:, :, j // share] @ B[:, :, j // share].mT) * span.exp().tril()
        expected = weights @ (dt[..., None] * x)[:, :, j] + D[j] * x[:, :, j]
        assert torch.allclose(y[:, :, j], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
def test_stepwise_equals_naive_forward_and_backward(shape: tuple[int, ...]) -> None:
    arguments = [tensor.requires_grad_() for tensor in mamba1(*shape)]
    naive, fast = selective_scan(*arguments), selective_scan_stepwise(*arguments)
    for a, b in zip(naive, fast, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
    weigh = [torch.randn(part.shape, generator=torch.Generator().manual_seed(1), dtype=F64) for part in naive]
    gradients = [
        torch.autograd.grad(torch.stack([(w * p).sum() for w, p in zip(weigh, found, strict=True)]).sum(), arguments)
        for found in (naive, fast)
    ]
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)


def test_stepwise_gradients_by_finite_differences() -> None:
    arguments = tuple(tensor.requires_grad_() for tensor in mamba1(2, 5, 4, 2, 3))
    assert torch.autograd.gradcheck(selective_scan_stepwise, arguments)


@pytest.mark.parametrize("chunk", [1, 8, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_chunked_equals_naive(shape: tuple[int, ...], chunk: int) -> None:
    arguments = mamba2(*shape)
    for a, b in zip(ssd(*arguments), ssd_chunked(*arguments, chunk=chunk), strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-11)


def test_chunked_gradients_by_finite_differences() -> None:
    arguments = tuple(tensor.requires_grad_() for tensor in mamba2(1, 7, 4, 2, 3))
    assert torch.autograd.gradcheck(lambda *a: ssd_chunked(*a, chunk=4), arguments)


@pytest.mark.parametrize(
    ("scan", "make"),
    [(selective_scan, mamba1), (selective_scan_stepwise, mamba1), (ssd, mamba2), (ssd_chunked, mamba2)],
)
def test_two_halves_make_a_whole(scan, make) -> None:
    x, dt, A, B, C, D, h0 = make(2, 23, 4, 2, 3)
    y, last = scan(x, dt, A, B, C, D, h0)
    first, middle = scan(x[:, :9], dt[:, :9], A, B[:, :9], C[:, :9], D, h0)
    second, end = scan(x[:, 9:], dt[:, 9:], A, B[:, 9:], C[:, 9:], D, middle)
    assert torch.allclose(torch.cat([first, second], 1), y, rtol=1e-12, atol=1e-12)
    assert torch.allclose(end, last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("scan", "make"),
    [(selective_scan, mamba1), (selective_scan_stepwise, mamba1), (ssd, mamba2), (ssd_chunked, mamba2)],
)
def test_nothing_in_nothing_out(scan, make) -> None:
    x, dt, A, B, C, D, h0 = make(2, 0, 4, 2, 3)
    y, last = scan(x, dt, A, B, C, D, h0)
    assert y.shape == x.shape
    assert torch.equal(last, h0)


def test_strong_decay_does_not_overflow_a_chunk() -> None:
    x, dt, A, B, C, D, h0 = (tensor.float() for tensor in mamba2(1, 64, 2, 1, 3))
    y, last = ssd_chunked(x, 100 * dt, 10 * A, B, C, D, h0)
    assert torch.isfinite(y).all()
    assert torch.isfinite(last).all()
