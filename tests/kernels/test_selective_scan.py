"""The selective scan against the explicit sum over the past, and its backends against each other where bits matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmtool_kernels import native
from ssmtool_kernels.selective_scan import (
    selective_scan,
    selective_scan_naive,
    selective_scan_stepwise,
    selective_step,
)
from ssmtool_kernels.selective_scan.case import CASES

F64 = torch.float64
SHAPES = [(1, 1, 2, 1, 1), (2, 37, 6, 3, 5), (3, 16, 4, 2, 1), (1, 65, 8, 1, 7), (1, 150, 70, 1, 4)]  # b, L, E, G, N
BACKENDS = ["naive", "torch", "cpu"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu" and native.missing():
        pytest.skip(native.missing())
    return request.param


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


def extras(b: int, length: int, channels: int, seed: int = 1) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "z": torch.randn(b, length, channels, generator=g, dtype=F64),
        "dt_bias": torch.randn(channels, generator=g, dtype=F64) - 2,
    }


def close(a: Tensor, b: Tensor, tolerance: float = 1e-11) -> bool:
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_sum_over_the_past(shape: tuple[int, ...], backend: str) -> None:
    x, dt, A, B, C, D, h0 = mamba1(*shape)
    length, channels = x.shape[1:]
    groups = B.shape[2]
    y, _ = selective_scan(x, dt, A, B, C, D, h0, backend=backend)
    total = dt.cumsum(1)
    for e in range(channels):
        g = e // (channels // groups)
        for t in {0, length // 2, length - 1}:
            decay = torch.exp((total[:, t : t + 1, e] - total[:, : t + 1, e])[..., None] * A[e])
            past = decay * B[:, : t + 1, g] * (dt * x)[:, : t + 1, e, None]
            h = past.sum(1) + torch.exp(total[:, t, e, None] * A[e]) * h0[:, e]
            assert close(y[:, t, e], (C[:, t, g] * h).sum(-1) + D[e] * x[:, t, e])


@pytest.mark.parametrize("form", [selective_scan_naive, selective_scan_stepwise])
def test_a_state_that_never_decays_is_a_running_sum(form) -> None:
    x, dt, A, B, C, _, _ = mamba1(2, 9, 4, 1, 1)
    y, _ = form(x, dt, 0 * A, B, C)
    assert close(y, C[:, :, 0] * (dt * x * B[:, :, 0]).cumsum(1))


@pytest.mark.parametrize("shape", SHAPES)
def test_backends_have_the_gradients_of_the_definition(shape: tuple[int, ...], backend: str) -> None:
    b, length, channels, _, _ = shape
    arguments = [tensor.requires_grad_() for tensor in mamba1(*shape)]
    more = {name: tensor.requires_grad_() for name, tensor in extras(b, length, channels).items()}
    resets = torch.rand(b, length, generator=torch.Generator().manual_seed(3)) < 0.05
    wanted = [*arguments, *more.values()]

    def gradients(outputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(1)
        loss = torch.stack([(torch.randn(p.shape, generator=g, dtype=F64) * p).sum() for p in outputs]).sum()
        return torch.autograd.grad(loss, wanted)

    truth = gradients(selective_scan_naive(*arguments, **more, dt_softplus=True, resets=resets))  # type: ignore
    found = gradients(
        selective_scan(*arguments, **more, dt_softplus=True, resets=resets, backend=backend)  # type: ignore
    )
    for a, b in zip(truth, found, strict=True):
        assert close(a, b, 1e-10)


def test_gradients_by_finite_differences(backend: str) -> None:
    arguments = tuple(tensor.requires_grad_() for tensor in mamba1(2, 5, 4, 2, 3))
    more = [tensor.requires_grad_() for tensor in extras(2, 5, 4).values()]

    def run(*given: Tensor) -> tuple[Tensor, Tensor]:
        return selective_scan(*given[:7], z=given[7], dt_bias=given[8], dt_softplus=True, backend=backend)

    assert torch.autograd.gradcheck(run, (*arguments, *more))


@pytest.mark.parametrize("cut", [1, 9, 64, 70])
def test_two_halves_make_a_whole(cut: int, backend: str) -> None:
    x, dt, A, B, C, D, h0 = mamba1(2, 71, 4, 2, 3)
    y, last = selective_scan(x, dt, A, B, C, D, h0, backend=backend)
    one, two = slice(None, cut), slice(cut, None)
    first, middle = selective_scan(x[:, one], dt[:, one], A, B[:, one], C[:, one], D, h0, backend=backend)
    second, end = selective_scan(x[:, two], dt[:, two], A, B[:, two], C[:, two], D, middle, backend=backend)
    assert close(torch.cat([first, second], 1), y, 1e-12)
    assert close(end, last, 1e-12)


def test_a_reset_begins_a_new_run(backend: str) -> None:
    x, dt, A, B, C, D, h0 = mamba1(1, 80, 4, 2, 3)
    resets = torch.zeros(1, 80, dtype=torch.bool)
    resets[0, [30, 66]] = True
    y, last = selective_scan(x, dt, A, B, C, D, h0, resets=resets, backend=backend)
    parts, state = [], h0
    for part in (slice(0, 30), slice(30, 66), slice(66, 80)):
        out, end = selective_scan(x[:, part], dt[:, part], A, B[:, part], C[:, part], D, state, backend=backend)
        parts.append(out)
        state = torch.zeros_like(h0)
    assert close(torch.cat(parts, 1), y, 1e-12)
    assert close(end, last, 1e-12)


def test_a_reset_forgets_even_what_is_not_finite(backend: str) -> None:
    x, dt, A, B, C, D, h0 = mamba1(1, 4, 2, 1, 3)
    resets = torch.tensor([[True, False, False, False]])
    y, last = selective_scan(x, dt, A, B, C, D, h0 * float("inf"), resets=resets, backend=backend)
    assert torch.isfinite(y).all()
    assert torch.isfinite(last).all()


def test_packed_sequences_are_separate_runs(backend: str) -> None:
    x, dt, A, B, C, D, _ = mamba1(1, 140, 4, 2, 3)
    h0 = mamba1(4, 1, 4, 2, 3)[-1]
    bounds = [0, 3, 3, 70, 140]
    y, last = selective_scan(x, dt, A, B, C, D, h0, cu_seqlens=torch.tensor(bounds), backend=backend)
    for i in range(4):
        part = slice(bounds[i], bounds[i + 1])
        out, end = selective_scan(x[:, part], dt[:, part], A, B[:, part], C[:, part], D, h0[i : i + 1], backend=backend)
        assert close(out, y[:, part], 1e-12)
        assert close(end, last[i : i + 1], 1e-12)


def test_nothing_in_nothing_out(backend: str) -> None:
    x, dt, A, B, C, D, h0 = mamba1(2, 0, 4, 2, 3)
    y, last = selective_scan(x, dt, A, B, C, D, h0, backend=backend)
    assert y.shape == x.shape
    assert torch.equal(last, h0)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_strong_decay_leaves_the_present_alone(dtype: torch.dtype, backend: str) -> None:
    """exp(-50) and exp(-1e6) of the past remain: y is what the step itself brings, and gradients are finite."""
    x, _, _, B, C, _, h0 = (tensor.to(dtype) for tensor in mamba1(2, 20, 4, 2, 3))
    for size, rate in ((1.0, -50.0), (1e5, -10.0)):
        dt = torch.full_like(x, size).requires_grad_()
        A = torch.full((4, 3), rate, dtype=dtype, requires_grad=True)
        y, last = selective_scan(x, dt, A, B, C, None, h0, backend=backend)
        present = (C * B).sum(-1).repeat_interleave(2, -1) * (dt * x)
        assert torch.allclose(y, present, rtol=1e-4, atol=1e-4 * size)
        (y.sum() + last.sum()).backward()
        for gradient in (dt.grad, A.grad):
            assert gradient is not None
            assert torch.isfinite(gradient).all()


def test_a_growing_state_grows(backend: str) -> None:
    one = torch.ones(1, 3, 1, dtype=F64)
    y, _ = selective_scan(one, one, torch.ones(1, 1, dtype=F64), one[..., None], one[..., None], backend=backend)
    e = float(np.e)
    assert close(y[0, :, 0], torch.tensor([1, 1 + e, 1 + e + e * e], dtype=F64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype, backend: str) -> None:
    x, dt, A, B, C, D, h0 = mamba1(2, 70, 4, 2, 3)
    x, dt, B, C = (tensor.to(dtype) for tensor in (x, dt, B, C))
    A, D, h0 = (tensor.float() for tensor in (A, D, h0))
    y, last = selective_scan(x, dt, A, B, C, D, h0, backend=backend)
    assert y.dtype == dtype
    assert last.dtype == torch.float32
    truth, end = selective_scan_naive(*(tensor.double() for tensor in (x, dt, A, B, C, D, h0)))
    assert close(last.double(), end, 1e-5)
    assert (y.double() - truth).abs().max() <= torch.finfo(dtype).eps * truth.abs().max()


@pytest.mark.parametrize("options", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("kind", ["naive", "cpu"])
def test_steps_are_the_scan_bit_for_bit(kind: str, dtype: torch.dtype, options: bool) -> None:
    if kind == "cpu" and native.missing():
        pytest.skip(native.missing())
    b, length, channels = 2, 67, 70
    x, dt, A, B, C, D, h = (tensor.to(dtype) for tensor in mamba1(b, length, channels, 1, 5))
    more = {name: tensor.to(dtype) for name, tensor in extras(b, length, channels).items()} if options else {}
    y, last = selective_scan(x, dt, A, B, C, D, h, **more, dt_softplus=options, backend=kind)  # type: ignore
    for t in range(length):
        now = {name: tensor[:, t] if name == "z" else tensor for name, tensor in more.items()}
        given = (x[:, t], dt[:, t], A, B[:, t], C[:, t], D, h)
        out, h = selective_step(*given, **now, dt_softplus=options, backend=kind)  # type: ignore
        assert torch.equal(out, y[:, t])
    assert torch.equal(h, last)


def test_softplus_keeps_small_and_large_steps(backend: str) -> None:
    raw = torch.tensor([-80.0, -20.0, -5.0, 0.0, 5.0, 25.0, 60.0], dtype=torch.float32)
    one = torch.ones(1, 1, 7)
    same = torch.ones(1, 1, 1, 1)
    y, _ = selective_scan(
        one, raw.expand(1, 1, 7).contiguous(), torch.zeros(7, 1), same, same, dt_softplus=True, backend=backend
    )
    truth = np.logaddexp(0, raw.numpy().astype(np.longdouble))
    assert np.max(np.abs(y[0, 0].numpy() - truth) / truth) < 5e-7


def wrong(**changes: Tensor) -> dict[str, Any]:
    names = ("x", "dt", "A", "B", "C", "D", "h0")
    return {**dict(zip(names, mamba1(2, 5, 4, 2, 3), strict=True)), **changes}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (wrong(x=torch.zeros(2, 5, dtype=F64)), "x has shape"),
        (wrong(dt=torch.zeros(2, 4, 4, dtype=F64)), "dt has shape"),
        (wrong(dt=torch.zeros(2, 5, 4)), "dt is torch.float32"),
        (wrong(A=torch.zeros(5, 3, dtype=F64)), "A has shape"),
        (wrong(B=torch.zeros(2, 5, 3, 3, dtype=F64)), "4 channels do not fall into 3 groups"),
        (wrong(C=torch.zeros(2, 5, 1, 3, dtype=F64)), "C has shape"),
        (wrong(D=torch.zeros(3, dtype=F64)), "D has shape"),
        (wrong(h0=torch.zeros(2, 4, 2, dtype=F64)), "h0 has shape"),
        (wrong(h0=torch.zeros(2, 4, 3)), "h0 is torch.float32"),
        (wrong(resets=torch.zeros(2, 5)), "resets is"),
        (wrong(cu_seqlens=torch.tensor([0, 5])), "batch of 1"),
        (wrong(x=torch.zeros(2, 5, 4, dtype=torch.int64)), "a real floating dtype"),
    ],
)
def test_bad_input_is_told_in_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as told:
        selective_scan(**given)
    assert "\n" not in str(told.value)


def test_exp_is_counted_once_per_state_and_step() -> None:
    case = CASES["selective_scan"]
    shape = {"B": 1, "L": 10, "E": 8, "G": 1, "N": 16}
    assert case.cost(shape, 4).exp == 10 * 8 * 16
    assert case.cost({**shape, "N": 8}, 4).exp == 10 * 8 * 8


FUNCTIONS = {
    "exp": (np.exp, 2),
    "exp2": (np.exp2, 2),
    "softplus": (lambda v: np.maximum(v, 0) + np.log1p(np.exp(-abs(v))), 4),
    "logistic": (lambda v: 1 / (1 + np.exp(-v)), 4),
}


def elementary(x: NDArray[np.floating]) -> dict[str, NDArray[np.floating]]:
    given = torch.from_numpy(x)
    found = [torch.empty_like(given) for _ in FUNCTIONS]
    native.function("selective_scan", "elementary", given.dtype)(given, *found, len(x))
    return {name: tensor.numpy() for name, tensor in zip(FUNCTIONS, found, strict=True)}


@pytest.mark.parametrize(("dtype", "limit"), [(np.float32, 86.9), (np.float64, 707.9)])
def test_exponentials_are_right_to_the_last_bits(dtype: type, limit: float) -> None:
    if native.missing():
        pytest.skip(native.missing())
    generator = np.random.default_rng(0)
    for scale in (1e-6, 0.1, 1.0, limit):
        x = (generator.uniform(-scale, scale, 50_001)).astype(dtype)
        found = elementary(x)
        for name, (function, units) in FUNCTIONS.items():
            truth = function(x.astype(np.longdouble))
            error = np.abs(found[name] - truth) / np.spacing(truth.astype(dtype))
            assert error.max() <= units, (name, scale)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponentials_at_the_ends_of_their_range(dtype: type) -> None:
    if native.missing():
        pytest.skip(native.missing())
    inf, nan = np.inf, np.nan
    found = elementary(np.array([-inf, -1e30, 0.0, -0.0, 1e30, inf, nan], dtype))
    assert np.array_equal(found["exp"], [0, 0, 1, 1, inf, inf, nan], equal_nan=True)
    assert np.array_equal(found["exp2"], [0, 0, 1, 1, inf, inf, nan], equal_nan=True)
    assert np.array_equal(found["logistic"], [0, 0, 0.5, 0.5, 1, 1, nan], equal_nan=True)
    half = np.log(dtype(2))
    assert np.allclose(found["softplus"][[2, 3]], half, rtol=1e-6)
    assert np.array_equal(found["softplus"][[0, 1, 4, 5, 6]], np.array([0, 0, 1e30, inf, nan], dtype), equal_nan=True)
    edge = np.finfo(dtype).maxexp
    powers = np.array([edge - 0.25, edge, -edge + 3.0], dtype)
    assert np.allclose(elementary(powers)["exp2"][[0, 2]], np.exp2(powers[[0, 2]]), rtol=1e-6, atol=0)
    assert elementary(powers)["exp2"][1] == inf
