"""The scan of Mamba-2 against masked attention, finite differences, and itself in pieces; its step against the scan."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ssmtool_kernels import native
from ssmtool_kernels.backends import interpreting
from ssmtool_kernels.ssd import ssd, ssd_chunked, ssd_naive, ssd_step

F64 = torch.float64
SHAPES = [(1, 1, 2, 1, 1), (2, 37, 6, 3, 5), (3, 16, 4, 2, 1), (1, 65, 8, 1, 7)]  # b, L, H, G, N
BACKENDS = ["naive", "torch", "cpu", "triton"]


def runnable(backend: str) -> None:
    if backend == "cpu" and native.missing():
        pytest.skip(native.missing())
    if backend == "triton" and not interpreting():
        pytest.skip("Triton's interpreter is off")


def inputs(b: int, length: int, heads: int, groups: int, states: int, width: int = 3, seed: int = 0) -> list[Tensor]:
    """x, dt, A, B, C, D, h0 in float64."""
    g = torch.Generator().manual_seed(seed)
    return [
        torch.randn(b, length, heads, width, generator=g, dtype=F64),
        2 * torch.rand(b, length, heads, generator=g, dtype=F64),
        -3 * torch.rand(heads, generator=g, dtype=F64),
        torch.randn(b, length, groups, states, generator=g, dtype=F64),
        torch.randn(b, length, groups, states, generator=g, dtype=F64),
        torch.randn(heads, 1, generator=g, dtype=F64),
        torch.randn(b, heads, width, states, generator=g, dtype=F64),
    ]


def close(a: Tensor, b: Tensor, limit: float = 1e-11) -> bool:
    return torch.allclose(a, b, rtol=limit, atol=limit)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_masked_attention(shape: tuple[int, ...], backend: str) -> None:
    runnable(backend)
    x, dt, A, B, C, D, _ = inputs(*shape)
    y, _ = ssd(x, dt, A, B, C, D, backend=backend)
    total = (dt * A).cumsum(1)
    share = x.shape[2] // B.shape[2]
    for j in range(x.shape[2]):
        span = total[:, :, None, j] - total[:, None, :, j]
        weights = (C[:, :, j // share] @ B[:, :, j // share].mT) * span.exp().tril()
        expected = weights @ (dt[..., None] * x)[:, :, j] + D[j] * x[:, :, j]
        assert close(y[:, :, j], expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_constant_input_settles_where_the_recurrence_stands_still(backend: str) -> None:
    """h = e h + u with the same e and u at every step goes to u / (1 - e)."""
    runnable(backend)
    one = torch.ones(1, 90, 1, 1, dtype=F64)
    dt, A = torch.full((1, 90, 1), 0.7, dtype=F64), torch.tensor([-0.9], dtype=F64)
    y, last = ssd(one, dt, A, 2 * one, 3 * one, backend=backend)
    settled = 0.7 * 2 / (1 - torch.exp(torch.tensor(-0.63, dtype=F64)))
    assert close(last.reshape(()), settled)
    assert close(y[0, -1, 0, 0], 3 * settled)


@pytest.mark.parametrize("chunk", [1, 8, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_of_any_length_give_the_same(shape: tuple[int, ...], chunk: int) -> None:
    arguments = inputs(*shape)
    resets = torch.rand(shape[:2], generator=torch.Generator().manual_seed(3)) < 0.2
    for mask in (None, resets):
        found = ssd_chunked(*arguments, resets=mask, chunk=chunk)
        for a, b in zip(ssd_naive(*arguments, resets=mask), found, strict=True):
            assert close(a, b)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_gradients_by_finite_differences(backend: str) -> None:
    """In everything that can be differentiated, all options on."""
    runnable(backend)
    g = torch.Generator().manual_seed(5)
    x, dt, A, B, C, D, h0 = inputs(1, 6, 4, 2, 3)
    more = [torch.randn(*size, generator=g, dtype=F64) for size in ((2, 2, 3), (2, 2, 3), (4,), (1, 6, 4, 3))]
    resets = torch.tensor([[False, False, True, False, False, False]])

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        project_b, project_c, bias, z = tensors[7:]
        rest: dict[str, Any] = {"project_b": project_b, "project_c": project_c, "dt_bias": bias, "z": z}
        return ssd(*tensors[:7], **rest, dt_softplus=True, resets=resets, backend=backend)

    given = [x, dt, A, B, C, D, h0[..., :2].contiguous(), *more]
    assert torch.autograd.gradcheck(run, tuple(tensor.requires_grad_() for tensor in given))


@pytest.mark.parametrize("backend", ["naive", "cpu"])
def test_gradients_of_a_step_by_finite_differences(backend: str) -> None:
    runnable(backend)
    g = torch.Generator().manual_seed(5)
    x, dt, A, B, C, D, h = inputs(2, 1, 4, 2, 3)
    given = [x[:, 0], dt[:, 0], A, B[:, 0], C[:, 0], D, h[..., :2].contiguous()]
    given += [torch.randn(*size, generator=g, dtype=F64) for size in ((2, 2, 3), (2, 2, 3), (4,), (2, 4, 3))]

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        project_b, project_c, bias, z = tensors[7:]
        rest: dict[str, Any] = {"project_b": project_b, "project_c": project_c, "dt_bias": bias, "z": z}
        return ssd_step(*tensors[:7], **rest, dt_softplus=True, backend=backend)

    assert torch.autograd.gradcheck(run, tuple(tensor.requires_grad_() for tensor in given))


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_halves_make_a_whole(backend: str) -> None:
    runnable(backend)
    x, dt, A, B, C, D, h0 = inputs(2, 43, 4, 2, 3)
    y, last = ssd(x, dt, A, B, C, D, h0, backend=backend)
    first, middle = ssd(x[:, :9], dt[:, :9], A, B[:, :9], C[:, :9], D, h0, backend=backend)
    second, end = ssd(x[:, 9:], dt[:, 9:], A, B[:, 9:], C[:, 9:], D, middle, backend=backend)
    assert close(torch.cat([first, second], 1), y, 1e-12)
    assert close(end, last, 1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_resets_and_packed_sequences_are_separate_runs(backend: str) -> None:
    runnable(backend)
    x, dt, A, B, C, D, h0 = inputs(1, 47, 4, 2, 3)
    bounds = [0, 5, 5, 40, 47]
    states = torch.cat([h0 * i for i in range(4)])
    resets = torch.zeros(1, 47, dtype=torch.bool)
    resets[0, [40, 41]] = True
    y, last = ssd(x, dt, A, B, C, D, states, cu_seqlens=torch.tensor(bounds), resets=resets, backend=backend)
    for i, (start, stop) in enumerate(pairwise(bounds)):
        state = states[i : i + 1]
        for begin, end in ((start, stop),) if start < 40 else ((40, 41), (41, 47)):
            part = slice(begin, end)
            kept = torch.zeros_like(state) if begin >= 40 else state
            expected, state = ssd_naive(x[:, part], dt[:, part], A, B[:, part], C[:, part], D, kept)
            assert close(y[:, part], expected)
        assert close(last[i : i + 1], state)


@pytest.mark.parametrize("backend", ["naive", "torch", "cpu", "triton"])
def test_a_reset_at_the_start_forgets_states_that_are_not_numbers(backend: str) -> None:
    runnable(backend)
    x, dt, A, B, C, D, h0 = inputs(1, 9, 2, 1, 3)
    resets = torch.zeros(1, 9, dtype=torch.bool)
    resets[0, 0] = True
    y, last = ssd(x, dt, A, B, C, D, h0 * float("inf"), resets=resets, backend=backend)
    expected, end = ssd_naive(x, dt, A, B, C, D)
    assert close(y, expected)
    assert close(last, end)


@pytest.mark.parametrize("backend", BACKENDS)
def test_projected_is_the_scan_of_projected_rows(backend: str) -> None:
    runnable(backend)
    x, dt, A, B, C, D, h0 = inputs(2, 21, 4, 2, 6)
    g = torch.Generator().manual_seed(1)
    rows, columns = (torch.randn(2, 2, 6, generator=g, dtype=F64) for _ in range(2))
    y, last = ssd(x, dt, A, B, C, D, h0[..., :2], project_b=rows, project_c=columns, backend=backend)
    narrow_b = torch.stack([B[:, :, i] @ rows[i].mT for i in range(2)], 2)
    narrow_c = torch.stack([C[:, :, i] @ columns[i].mT for i in range(2)], 2)
    expected, end = ssd_naive(x, dt, A, narrow_b, narrow_c, D, h0[..., :2])
    assert close(y, expected)
    assert close(last, end)


@pytest.mark.parametrize("backend", BACKENDS)
def test_step_sizes_and_gate_are_those_of_their_formulas(backend: str) -> None:
    runnable(backend)
    x, dt, A, B, C, D, h0 = inputs(2, 21, 4, 2, 6)
    bias, z = torch.randn(4, dtype=F64), torch.randn_like(x)
    options: dict[str, Any] = {"dt_bias": bias, "dt_softplus": True, "dt_limit": (0.3, 1.5), "z": z}
    y, last = ssd(x, dt - 1, A, B, C, D, h0, **options, backend=backend)
    expected, end = ssd_naive(x, torch.log1p(torch.exp(dt - 1 + bias)).clip(0.3, 1.5), A, B, C, D, h0)
    assert close(y, expected * z / (1 + torch.exp(-z)))
    assert close(last, end)


@pytest.mark.parametrize("backend", ["torch", "cpu", "triton"])
def test_strong_decay_does_not_overflow(backend: str) -> None:
    """Forward and backward; a decay of exp(-1000) leaves nothing of the step before."""
    runnable(backend)
    x, dt, A, B, C, D, h0 = (tensor.float().requires_grad_() for tensor in inputs(1, 40, 2, 1, 3))
    strong = (100 * dt + 10, 10 * A - 100)
    y, last = ssd(x, *strong, B, C, D, h0, backend=backend)
    alone = strong[0][..., None] * x * (B * C).sum(-1)[..., None] + D * x
    assert torch.allclose(y, alone, rtol=1e-4, atol=1e-4)
    for found in torch.autograd.grad(y.sum() + last.sum(), (x, dt, A, B, C, D, h0)):
        assert torch.isfinite(found).all()


@pytest.mark.parametrize("backend", ["torch", "cpu", "triton"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, backend: str) -> None:
    runnable(backend)
    halves = [tensor.to(dtype) for tensor in inputs(1, 20, 2, 1, 3)]
    y, last = ssd(*halves, backend=backend)
    expected, end = ssd_naive(*(tensor.double() for tensor in halves))
    assert y.dtype == last.dtype == dtype
    step = torch.finfo(dtype).eps
    assert torch.allclose(y.double(), expected, rtol=step, atol=1e-4)
    assert torch.allclose(last.double(), end, rtol=step, atol=1e-4)
    x, dt, A, B, C, D, h0 = halves
    wide = ssd(x, dt.float(), A.float(), B, C, D.float(), h0.float(), backend=backend)
    assert wide[1].dtype == torch.float32
    assert torch.allclose(wide[1].double(), end, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["naive", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("sides", [False, True])
def test_steps_repeat_the_scan_bit_for_bit(sides: bool, dtype: torch.dtype, backend: str) -> None:
    runnable(backend)
    x, dt, A, B, C, D, h0 = (tensor.to(dtype) for tensor in inputs(2, 22, 4, 2, 37, width=19))
    z, bias = torch.randn_like(x), torch.randn_like(A)
    options: dict[str, Any] = {"dt_bias": bias, "dt_softplus": True, "backend": backend}
    if sides:
        options |= {"project_b": torch.randn(2, 11, 37, dtype=dtype), "project_c": torch.randn(2, 11, 37, dtype=dtype)}
    h = h0[..., :11].contiguous() if sides else h0
    y, last = ssd(x, dt, A, B, C, D, h, z=z, **options)
    for t in range(22):
        out, h = ssd_step(x[:, t], dt[:, t], A, B[:, t], C[:, t], D, h, z=z[:, t], **options)
        assert torch.equal(out, y[:, t])
    assert torch.equal(h, last)


@pytest.mark.parametrize("programs", [1, 3, 1000])
def test_a_carried_state_gives_the_same_on_a_gpu(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks as long as the sequences, of several tiles, and of one; float64 where half precision is meant."""
    runnable("triton")
    from ssmtool_kernels.ssd import triton

    monkeypatch.setattr(triton, "PROGRAMS", programs)
    monkeypatch.setattr(triton, "carrying", lambda *_: {"Q": 16, "BP": 16, "BN": 16, "SLICE": 16})
    x, dt, A, B, C, D, h0 = inputs(1, 70, 2, 1, 5, width=17)
    resets = torch.rand(1, 70, generator=torch.Generator().manual_seed(3)) < 0.05
    packed = torch.tensor([0, 20, 70])
    states, z = torch.cat([h0, -h0]), torch.randn_like(x)
    for more in ({}, {"resets": resets, "z": z}):
        given: dict[str, Any] = {"h0": states, "cu_seqlens": packed, **more}
        found = ssd(x, dt, A, B, C, D, **given, backend="triton")
        for a, b in zip(found, ssd(x, dt, A, B, C, D, **given, backend="naive"), strict=True):
            assert close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_in_nothing_out(backend: str) -> None:
    runnable(backend)
    x, dt, A, B, C, D, h0 = inputs(2, 0, 4, 2, 3)
    y, last = ssd(x, dt, A, B, C, D, h0, backend=backend)
    assert y.shape == x.shape
    assert torch.equal(last, h0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dt": torch.zeros(1, 4, 3, dtype=F64)}, "dt has shape"),
        ({"B": torch.zeros(1, 4, 4, 2, dtype=F64)}, "divisor of the 2 heads"),
        ({"C": torch.zeros(1, 4, 1, 2, dtype=F64)}, "C has shape"),
        ({"D": torch.zeros(2, dtype=F64)}, "D has shape"),
        ({"h0": torch.zeros(1, 2, 3, 2, dtype=F64)}, "h0 has shape"),
        ({"A": torch.zeros(2)}, "A is torch.float32"),
        ({"project_b": torch.zeros(1, 1, 3, dtype=F64)}, "together"),
        ({"z": torch.zeros(1, 4, 2, dtype=F64)}, "z has shape"),
        ({"dt_limit": (2.0, 1.0)}, "dt_limit"),
        ({"resets": torch.zeros(1, 4)}, "resets is"),
        ({"cu_seqlens": torch.tensor([0, 3])}, "cu_seqlens"),
    ],
)
def test_bad_input_is_refused_in_one_line(change: dict[str, Any], said: str) -> None:
    x, dt, A, B, C, D, h0 = inputs(1, 4, 2, 1, 3)
    good: dict[str, Any] = {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "h0": h0}
    with pytest.raises(ValueError, match=said) as caught:
        ssd(**{**good, **change})
    assert "\n" not in str(caught.value)
