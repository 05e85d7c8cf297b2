"""Scans of time-invariant systems against closed forms, derivatives by differences, and themselves in pieces."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from ssmtool_kernels import native
from ssmtool_kernels.backends import interpreting
from ssmtool_kernels.block_scan import block_scan, block_step
from ssmtool_kernels.diagonal_scan import diagonal_scan, diagonal_step, mimo
from ssmtool_kernels.diagonal_states import diagonal_states, diagonal_states_step

BACKENDS = ("naive", "torch", "cpu", "triton")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu" and native.missing():
        pytest.skip(native.missing())
    if request.param == "triton" and not interpreting():
        pytest.skip("Triton's interpreter is off")
    return request.param


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*sizes: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(sizes, dtype=dtype, generator=generator(seed))


def eigenvalues(*sizes: int, seed: int) -> Tensor:
    radius = torch.exp(-(10.0 ** (-3 * torch.rand(sizes, dtype=torch.float64, generator=generator(seed)))))
    return torch.polar(radius, 3 * torch.rand(sizes, dtype=torch.float64, generator=generator(seed + 1)))


def rotations(n: int, seed: int) -> Tensor:
    radius = 0.9 + 0.1 * torch.rand((n, 1, 1), dtype=torch.float64, generator=generator(seed))
    angle = 3 * torch.rand(n, dtype=torch.float64, generator=generator(seed + 1))
    return radius * torch.stack(
        [torch.stack([angle.cos(), -angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)], -2
    )


def system(inputs: int, outputs: int, systems: int = 2, n: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kind = torch.complex128
    return (
        eigenvalues(systems, n, seed=1),
        normal(systems, n, inputs, seed=2, dtype=kind),
        normal(systems, outputs, n, seed=3, dtype=kind),
        normal(systems, outputs, inputs, seed=4),
    )


def close(found: Tensor, truth: Tensor, limit: float) -> None:
    assert found.shape == truth.shape
    scale = float(truth.detach().abs().square().sum().sqrt()) or 1.0
    assert float((found.to(truth.dtype) - truth).detach().abs().square().sum().sqrt()) <= limit * scale


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (2, 3)])
def test_diagonal_scan_is_the_sum_over_powers(backend: str, inputs: int, outputs: int) -> None:
    """y[t] = Re sum_s C lam^(t-s) B u[s] + D u[t] + Re C lam^(t+1) x0, in extended precision."""
    lam, B, C, D = system(inputs, outputs)
    u, x0 = normal(1, 2, 41, inputs, seed=5), normal(1, 2, 5, seed=6, dtype=torch.complex128)
    y, last = diagonal_scan(lam, B, C, D, u, x0, backend=backend)
    power = lam.numpy().astype(np.clongdouble)[:, None] ** np.arange(42)[None, :, None]
    expected = np.einsum("spm,stm->stp", D, u[0])
    for t in range(41):
        x = power[:, t + 1] * x0[0].numpy()
        for s in range(t + 1):
            x = x + power[:, t - s] * np.einsum("snm,sm->sn", B, u[0, :, s])
        expected[:, t] += np.einsum("spn,sn->sp", C, x).real.astype(float)
    close(y[0], torch.from_numpy(expected), 1e-13)
    close(last[0], torch.from_numpy(x.astype(complex)), 1e-13)


def test_states_of_a_constant_input_are_the_geometric_sum(backend: str) -> None:
    lam, v = eigenvalues(4, seed=7), torch.ones((1, 50, 4), dtype=torch.complex128)
    x, last = diagonal_states(lam, v, backend=backend)
    steps = torch.arange(1, 51)[:, None]
    close(x[0], (1 - lam**steps) / (1 - lam), 1e-12)
    close(last, x[:, -1], 1e-15)


def test_states_of_rotations_are_their_powers(backend: str) -> None:
    A, x0 = rotations(3, seed=8), normal(1, 3, 2, seed=9)
    x, _ = block_scan(A, torch.zeros((1, 40, 3, 2), dtype=torch.float64), x0, backend=backend)
    for t in (0, 1, 15, 16, 39):
        close(x[:, t], (torch.linalg.matrix_power(A, t + 1) @ x0[..., None])[..., 0], 1e-13)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_slow_modes_over_a_long_time_keep_their_digits_in_float32(backend: str) -> None:
    """A mode of |lam| = 0.9999 under a constant input, against the geometric sum in 40 digits."""
    if backend == "cpu" and native.missing():
        pytest.skip(native.missing())
    length = 20000
    lam = torch.tensor([[0.9999 + 0j, 0.9999 * complex(math.cos(0.01), math.sin(0.01))]]).to(torch.complex64)
    B = torch.ones((1, 2, 1), dtype=torch.complex64)
    y, _ = diagonal_scan(lam, B, B.mT, torch.zeros(1, 1, 1), torch.ones(1, length, 1), backend=backend)
    with mpmath.workdps(40):
        modes = [mpmath.mpc(z.real, z.imag) for z in lam[0].tolist()]
        for t in (0, 999, 9999, length - 1):
            truth = float(sum(((1 - z ** (t + 1)) / (1 - z)).real for z in modes))
            assert abs(float(y[0, t, 0]) - truth) <= 3e-6 * abs(truth) + 1e-6


def test_float32_is_within_the_stated_error_for_the_same_numbers() -> None:
    if native.missing():
        pytest.skip(native.missing())
    lam, B, C, D = (z.to(torch.complex64 if z.is_complex() else torch.float32) for z in system(1, 1, n=64))
    lam = 0.9999 * lam / lam.abs()
    u = normal(1, 2, 8192, 1, seed=10).float()
    exact = [z.to(torch.complex128 if z.is_complex() else torch.float64) for z in (lam, B, C, D, u)]
    truth, state = diagonal_scan(exact[0], exact[1], exact[2], exact[3], exact[4], backend="cpu")
    y, last = diagonal_scan(lam, B, C, D, u, backend="cpu")
    close(y, truth, 1e-6)
    close(last, state, 1e-6)


def variants(packed: bool) -> dict[str, Tensor | None]:
    resets = torch.zeros((1 if packed else 2, 19), dtype=torch.bool)
    resets[0, [0, 4, 5, 18]] = True
    return {"resets": resets, "cu_seqlens": torch.tensor([0, 7, 7, 19]) if packed else None}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["siso", "mimo", "states", "real states", "blocks"])
def test_gradients_are_those_of_differences(name: str, packed: bool) -> None:
    if native.missing():
        pytest.skip(native.missing())
    b, k = (1, 3) if packed else (2, 2)
    options = variants(packed)
    kind = torch.complex128
    run: Callable[..., object]
    if name in ("siso", "mimo"):
        inputs, outputs = (1, 1) if name == "siso" else (2, 3)
        arguments = [*system(inputs, outputs, n=3), normal(b, 2, 19, inputs, seed=11)]
        arguments.append(normal(k, 2, 3, seed=12, dtype=kind))
        run = diagonal_scan
    elif name == "blocks":
        arguments = [normal(2, 2, 2, seed=13) / 2, normal(b, 19, 2, 2, seed=14), normal(k, 2, 2, seed=15)]
        run = block_scan
    else:
        dtype = kind if name == "states" else torch.float64
        arguments = [eigenvalues(3, seed=16).to(kind), normal(b, 19, 3, seed=17, dtype=dtype)]
        arguments[0] = arguments[0] if name == "states" else arguments[0].real.clone()
        arguments.append(normal(k, 3, seed=18, dtype=dtype))
        run = diagonal_states
    for tensor in arguments:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *given: run(*given, **options, backend="cpu"), arguments, fast_mode=True, nondet_tol=0.0
    )


def halves(backend: str, cut: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Outputs and last state of the whole and of two pieces, time second."""
    found = []
    for inputs, outputs in ((1, 1), (2, 2)):
        lam, B, C, D = system(inputs, outputs)
        u = normal(2, 2, 50, inputs, seed=19)
        whole, end = diagonal_scan(lam, B, C, D, u, backend=backend)
        first, middle = diagonal_scan(lam, B, C, D, u[:, :, :cut], backend=backend)
        second, last = diagonal_scan(lam, B, C, D, u[:, :, cut:], middle, backend=backend)
        found.append((whole, torch.cat([first, second], 2), end, last))
    lam, v = eigenvalues(5, seed=20), normal(2, 50, 5, seed=21, dtype=torch.complex128)
    A, w = rotations(5, seed=22), normal(2, 50, 5, 2, seed=23)
    for whole, end, (first, middle), finish in (
        (
            *diagonal_states(lam, v, backend=backend),
            diagonal_states(lam, v[:, :cut], backend=backend),
            lambda x: diagonal_states(lam, v[:, cut:], x, backend=backend),
        ),
        (
            *block_scan(A, w, backend=backend),
            block_scan(A, w[:, :cut], backend=backend),
            lambda x: block_scan(A, w[:, cut:], x, backend=backend),
        ),
    ):
        second, last = finish(middle)
        found.append((whole, torch.cat([first, second], 1), end, last))
    return found


@pytest.mark.parametrize("cut", [0, 1, 19, 32])
def test_two_pieces_make_the_whole(backend: str, cut: int) -> None:
    if backend == "triton" and cut != 19:
        pytest.skip("one cut will do for the interpreter")
    for whole, joined, end, last in halves(backend, cut):
        close(joined, whole, 1e-13)
        close(last, end, 1e-13)


def test_steps_are_the_naive_scan_bit_for_bit_and_the_fast_one_within_rounding() -> None:
    for inputs, outputs in ((1, 1), (2, 3)):
        lam, B, C, D = (z.to(torch.complex64 if z.is_complex() else torch.float32) for z in system(inputs, outputs))
        u = normal(3, 2, 30, inputs, seed=24).float()
        x = torch.zeros((3, 2, 5), dtype=torch.complex64)
        outputs_found = []
        for t in range(30):
            y, x = diagonal_step(lam, B, C, D, u[:, :, t], x)
            outputs_found.append(y)
        stepped = torch.stack(outputs_found, 2)
        naive, last = diagonal_scan(lam, B, C, D, u, backend="naive")
        assert torch.equal(naive, stepped)
        assert torch.equal(last, x)
        fast, last = diagonal_scan(lam, B, C, D, u)
        close(fast, stepped, 1e-6)
        close(last, x, 1e-6)


def test_steps_of_states_are_the_naive_scan_bit_for_bit() -> None:
    lam, v = eigenvalues(5, seed=25), normal(2, 30, 5, seed=26, dtype=torch.complex128)
    A, w = rotations(5, seed=27), normal(2, 30, 5, 2, seed=28)
    x, z = torch.zeros_like(v[:, 0]), torch.zeros_like(w[:, 0])
    for t in range(30):
        x, z = diagonal_states_step(lam, v[:, t], x), block_step(A, w[:, t], z)
    assert torch.equal(diagonal_states(lam, v, backend="naive")[1], x)
    assert torch.equal(block_scan(A, w, backend="naive")[1], z)
    close(diagonal_states(lam, v)[1], x, 1e-14)
    close(block_scan(A, w)[1], z, 1e-14)


@pytest.mark.parametrize("inputs", [1, 2])
def test_a_reset_begins_a_run_of_its_own(backend: str, inputs: int) -> None:
    lam, B, C, D = system(inputs, inputs)
    length, cut = (300, 270) if backend in ("cpu", "triton") and inputs == 1 else (40, 17)
    u, x0 = normal(1, 2, length, inputs, seed=29), normal(1, 2, 5, seed=30, dtype=torch.complex128)
    resets = torch.zeros((1, length), dtype=torch.bool)
    resets[0, cut] = True
    y, last = diagonal_scan(lam, B, C, D, u, x0, resets=resets, backend=backend)
    first, _ = diagonal_scan(lam, B, C, D, u[:, :, :cut], x0, backend=backend)
    second, end = diagonal_scan(lam, B, C, D, u[:, :, cut:], backend=backend)
    close(y, torch.cat([first, second], 2), 1e-13)
    close(last, end, 1e-13)


def test_a_reset_forgets_infinities() -> None:
    """The state is set to 0, not multiplied by it."""
    lam, v = eigenvalues(3, seed=31), normal(1, 9, 3, seed=32, dtype=torch.complex128)
    v[:, 3] = float("inf")
    resets = torch.zeros((1, 9), dtype=torch.bool)
    resets[0, 4] = True
    x, _ = diagonal_states(lam, v, resets=resets)
    close(x[:, 4:], diagonal_states(lam, v[:, 4:])[0], 1e-14)


@pytest.mark.parametrize("inputs", [1, 2])
def test_packed_sequences_are_separate_runs(backend: str, inputs: int) -> None:
    lam, B, C, D = system(inputs, inputs)
    u, x0 = normal(1, 2, 60, inputs, seed=33), normal(4, 2, 5, seed=34, dtype=torch.complex128)
    bounds = [0, 0, 23, 24, 60]
    y, last = diagonal_scan(lam, B, C, D, u, x0, cu_seqlens=torch.tensor(bounds), backend=backend)
    for i in range(4):
        part = u[:, :, bounds[i] : bounds[i + 1]]
        alone, end = diagonal_scan(lam, B, C, D, part, x0[i : i + 1], backend=backend)
        close(y[:, :, bounds[i] : bounds[i + 1]], alone, 1e-13)
        close(last[i : i + 1], end, 1e-13)


def test_chunks_of_several_inputs_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    if native.missing():
        pytest.skip(native.missing())
    arguments = [*system(2, 3), normal(2, 2, 70, 2, seed=35), normal(2, 2, 5, seed=36, dtype=torch.complex128)]
    resets = torch.rand((2, 70), generator=generator(37)) < 0.05
    for tensor in arguments:
        tensor.requires_grad_()
    found = []
    for room in (mimo.CACHED, 1):
        monkeypatch.setattr(mimo, "CACHED", room)
        y, last = diagonal_scan(*arguments, resets=resets, backend="cpu")
        loss = (y * torch.arange(y.numel()).view(y.shape).cos()).sum() + last.real.sum()
        found.append((y, last, *torch.autograd.grad(loss, arguments)))
    for once, often in zip(*found, strict=True):
        close(often, once, 1e-13)


def test_real_eigenvalues_are_complex_ones_without_imaginary_part() -> None:
    lam, B, C, D = system(1, 1)
    real = [z.real.clone() for z in (lam, B, C)]
    u = normal(2, 30, 1, seed=38)
    y, last = diagonal_scan(real[0], real[1], real[2], D, u)
    other, end = diagonal_scan(*(z.to(torch.complex128) for z in real), D, u)  # type: ignore[misc]
    close(y, other, 1e-14)
    close(last, end.real, 1e-14)


def test_half_precision_is_computed_in_single() -> None:
    lam, B, C, D = (z.to(torch.complex64 if z.is_complex() else torch.float32) for z in system(1, 1))
    u = normal(2, 30, 1, seed=39).bfloat16()
    y, _ = diagonal_scan(lam, B, C, D, u)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, diagonal_scan(lam, B, C, D, u.float())[0].bfloat16())
    decay, v = torch.rand(4, generator=generator(40)).bfloat16(), normal(1, 9, 4, seed=41).bfloat16()
    assert torch.equal(diagonal_states(decay, v)[0], diagonal_states(decay.float(), v.float())[0].bfloat16())


def test_inputs_that_do_not_fit_are_named() -> None:
    lam, B, C, D = system(1, 1)
    u = normal(2, 30, 1, seed=42)
    with pytest.raises(ValueError, match=r"B has shape \(2, 4, 1\) instead of \(2, 5, 1\) = \(S, n, m\)"):
        diagonal_scan(lam, B[:, :4], C, D, u)
    with pytest.raises(ValueError, match=r"u is torch\.float32, and lam is torch\.complex128"):
        diagonal_scan(lam, B, C, D, u.float())
    with pytest.raises(ValueError, match=r"x0 has shape \(1, 2, 4\)"):
        diagonal_scan(lam, B, C, D, u, torch.zeros((2, 4), dtype=lam.dtype))
    with pytest.raises(ValueError, match="cu_seqlens has to rise from 0 to L = 30"):
        diagonal_scan(lam, B, C, D, u, cu_seqlens=torch.tensor([0, 31]))
    with pytest.raises(ValueError, match=r"u has shape \(30,\): \(b, S, L, m\) is needed"):
        diagonal_scan(lam, B, C, D, u[0, :, 0])
    with pytest.raises(ValueError, match=r"v is torch\.float64, lam is torch\.complex128"):
        diagonal_states(lam[0], normal(1, 9, 5, seed=43))
    with pytest.raises(ValueError, match=r"A has shape \(5, 2, 1\) instead of \(5, 2, 2\)"):
        block_scan(normal(5, 2, 1, seed=44), normal(1, 9, 5, 2, seed=45))
    with pytest.raises(ValueError, match=r"A is torch\.complex128: real"):
        block_scan(rotations(5, seed=46) + 0j, normal(1, 9, 5, 2, seed=47) + 0j)
