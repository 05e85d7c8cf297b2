"""Convolutions and kernels of diagonal systems against closed forms, the naive scan, themselves in pieces."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssmtool_kernels import native
from ssmtool_kernels.backends import BackendError, interpreting
from ssmtool_kernels.convolution import (
    fft_convolution,
    short_convolution,
    short_convolution_step,
    state_passing_convolution,
)
from ssmtool_kernels.convolution.lengths import fast_length
from ssmtool_kernels.convolution.naive import diagonal_naive
from ssmtool_kernels.s4d_chunked import s4d_chunked
from ssmtool_kernels.s4d_chunked.naive import s4d_naive
from ssmtool_kernels.s4d_kernel import s4d_kernel
from ssmtool_kernels.s4d_kernel.two_level import collect, expand, powers, powers_of, tables

FAST = [
    "torch",
    pytest.param("triton", marks=pytest.mark.skipif(not interpreting(), reason="Triton's interpreter is off")),
]
SHORT = [*FAST, pytest.param("cpu", marks=pytest.mark.skipif(bool(native.missing()), reason="no C compiler"))]


def normal(*sizes: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(sizes, dtype=dtype, generator=torch.Generator().manual_seed(sum(sizes) + seed))


def rates(systems: int, n: int) -> Tensor:
    """Logarithms of stable eigenvalues."""
    return torch.complex(-normal(systems, n).abs() / 10 - 1e-3, 2 * normal(systems, n, seed=1))


def distance(found: Tensor, truth: Tensor) -> float:
    return float((found.to(truth.dtype) - truth).norm() / truth.norm())


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_late_values_of_a_slow_kernel_are_those_of_arbitrary_precision(backend: str, dtype: torch.dtype) -> None:
    """|lam|^L = e^-0.2 and 3 rad per step: a phase taken in float32 would be off by 1e-3 at the end."""
    length = 20000
    a = torch.tensor([[-1e-5 + 3.1j, -2e-5 - 0.7j]], dtype=dtype)
    c = torch.tensor([[0.5 - 1j, 2 + 0.25j]], dtype=dtype)
    K = s4d_kernel(a, c, length, backend=backend)
    with mpmath.workdps(30):
        modes = [(mpmath.mpc(complex(p)), mpmath.mpc(complex(w))) for p, w in zip(a[0], c[0], strict=True)]
        for l in (0, 1, 127, 128, 4095, 12345, length - 1):
            truth = float(sum((w * mpmath.exp(p * l)).real for p, w in modes))
            assert abs(float(K[0, l]) - truth) <= (1e-6 if dtype == torch.complex64 else 1e-10)


@pytest.mark.parametrize("backend", FAST)
def test_the_sum_of_a_kernel_is_its_gain(backend: str) -> None:
    """sum_l K[l] = Re sum_n c (1 - lam^L) / (1 - lam): a geometric series."""
    a, c = rates(3, 5), normal(3, 5, dtype=torch.complex128)
    lam = torch.exp(a)
    gain = (c * (1 - lam**333) / (1 - lam)).sum(1).real
    assert distance(s4d_kernel(a, c, 333, backend=backend).sum(1), gain) <= 1e-11


def test_gradients_of_the_kernel_are_those_of_differences() -> None:
    a, c = rates(2, 3).requires_grad_(), normal(2, 3, dtype=torch.complex128).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, c: s4d_kernel(a, c, 21), (a, c))


def test_powers_differentiate_and_keep_their_digits() -> None:
    a = rates(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: powers(a, 9, 5), (a,))
    turning = torch.complex(torch.zeros(2, 3), a.detach().imag.float())
    assert distance(powers(turning, 3, 10**7)[..., 2], torch.exp(2j * 10**7 * turning.imag.double())) <= 1e-7


def test_powers_of_eigenvalues_differentiate_at_zero_too() -> None:
    lam = torch.exp(rates(2, 3))
    lam[0, 1] = 0
    assert torch.autograd.gradcheck(lambda lam: powers_of(lam, 7), (lam.requires_grad_(),))
    assert distance(powers_of(lam.detach(), 300)[..., 299], lam.detach() ** 299) <= 1e-12


def test_expanding_and_collecting_are_adjoint() -> None:
    """<expand(c), u> = Re <c, conj(collect(u))>."""
    two, c, u = tables(rates(2, 3), 45), normal(2, 4, 3, dtype=torch.complex128), normal(2, 4, 45)
    assert torch.allclose((expand(two, c) * u).sum(), (c * collect(two, u)).sum().real, rtol=1e-12)


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("chunk", [1, 7, 16, 1000])
def test_any_chunk_gives_the_outputs_of_the_scan(m: int, chunk: int) -> None:
    a, B, C = rates(2, 3), normal(2, 3, m, dtype=torch.complex128), normal(2, 2, 3, dtype=torch.complex128)
    D, u, x0 = normal(2, 2, m), normal(2, 2, 41, m), normal(2, 2, 3, dtype=torch.complex128)
    y, last = state_passing_convolution(a, B, C, D, u, x0, chunk=chunk)
    truth, end = diagonal_naive(a, B, C, D, u, x0)
    assert distance(y, truth) <= 1e-12
    assert distance(last, end) <= 1e-12
    single, alone = state_passing_convolution(a, B, C, D, u[1], x0[1], chunk=chunk)
    assert torch.allclose(single, y[1], atol=1e-12)
    assert torch.allclose(alone, last[1], atol=1e-12)


@pytest.mark.parametrize("through", ["kernels", "modes", "chunks"])
def test_halves_make_a_whole(through: str) -> None:
    m = 2 if through == "modes" else 1
    a, B, C = rates(2, 3), normal(2, 3, m, dtype=torch.complex128), normal(2, m, 3, dtype=torch.complex128)
    D, u = normal(2, m, m), normal(2, 2, 150, m)

    def run(u: Tensor, x0: Tensor | None) -> tuple[Tensor, Tensor]:
        if through == "chunks":
            y, last = s4d_chunked(a, B[..., 0], C[:, 0], D[:, 0, 0], u[..., 0], x0, backend="torch")
            return y[..., None], last
        return state_passing_convolution(a, B, C, D, u, x0, chunk=32)

    whole, end = run(u, None)
    first, middle = run(u[:, :, :67], None)
    second, last = run(u[:, :, 67:], middle)
    assert distance(torch.cat([first, second], dim=2), whole) <= 1e-12
    assert distance(last, end) <= 1e-12


def test_gradients_reach_everything_through_the_state() -> None:
    parts = [rates(1, 2), normal(1, 2, 1, dtype=torch.complex128), normal(1, 1, 2, dtype=torch.complex128)]
    parts += [normal(1, 1, 1), normal(1, 1, 11, 1), normal(1, 1, 2, dtype=torch.complex128)]
    leaves = [part.requires_grad_() for part in parts]
    assert torch.autograd.gradcheck(lambda *given: state_passing_convolution(*given, chunk=4), leaves)


def test_slow_modes_keep_six_digits_in_single_precision() -> None:
    """|lam| = 1 - 1e-4 over 8192 steps in eight chunks: the state carries all of the output in the end."""
    a = torch.complex(torch.full((2, 3), -1e-4), normal(2, 3, dtype=torch.float32))
    B, C = normal(2, 3, 1, dtype=torch.complex64), normal(2, 1, 3, dtype=torch.complex64)
    D, u = torch.zeros(2, 1, 1), normal(1, 2, 8192, 1, dtype=torch.float32)
    wide = [x.to(torch.complex128 if x.is_complex() else torch.float64) for x in (a, B, C, D, u)]
    truth, end = state_passing_convolution(*wide, chunk=8192)
    y, last = state_passing_convolution(a, B, C, D, u)
    assert distance(y, truth) <= 2e-6
    assert distance(last, end) <= 2e-6
    z, last = s4d_chunked(a, B[..., 0], C[:, 0], D[:, 0, 0], u[..., 0], backend="torch")
    assert distance(z[..., None], truth) <= 2e-6
    assert distance(last, end) <= 2e-6


def test_the_chunked_scan_differentiates_in_everything() -> None:
    parts = [rates(1, 2), *(normal(1, 2, dtype=torch.complex128, seed=i) for i in (1, 2)), normal(1), normal(1, 1, 131)]
    leaves = [part.requires_grad_() for part in [*parts, normal(1, 1, 2, dtype=torch.complex128)]]
    assert torch.autograd.gradcheck(lambda *given: s4d_chunked(*given), leaves, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    a, B, C = (x.to(torch.complex64) for x in (rates(2, 3), *(normal(2, 3, dtype=torch.complex128) for _ in "BC")))
    D, u = torch.ones(2), normal(1, 2, 200, dtype=torch.float32).to(dtype)
    y, _ = s4d_chunked(a, B, C, D, u, backend="torch")
    truth = s4d_naive(a, B, C, D, u.float())[0]
    assert y.dtype == dtype
    assert bool(((y.float() - truth).abs() <= torch.finfo(dtype).eps * truth.abs() + 1e-4).all())


@pytest.mark.skipif(not interpreting(), reason="Triton's interpreter is off")
def test_the_triton_scan_reads_and_writes_half_precision() -> None:
    a, B, C = (x.to(torch.complex64) for x in (rates(2, 3), *(normal(2, 3, dtype=torch.complex128) for _ in "BC")))
    D, u = torch.ones(2), normal(1, 2, 128, dtype=torch.float32).half()
    y, _ = s4d_chunked(a, B, C, D, u, backend="triton")
    assert y.dtype == torch.float16
    assert distance(y.float(), s4d_naive(a, B, C, D, u.float())[0]) <= 1e-3


@pytest.mark.parametrize("chunk", [None, 1, 5, 64])
def test_overlap_save_in_pieces_is_the_convolution(chunk: int | None) -> None:
    K, u = normal(3, 9), normal(2, 3, 50)
    truth = F.conv1d(F.pad(u, (8, 0)), K.flip(-1)[:, None], groups=3)
    whole, tail = fft_convolution(K, u, chunk=chunk)
    assert distance(whole, truth) <= 1e-12
    assert torch.equal(tail, u[..., -8:])
    pieces, tail = [], None
    for part in u.split(3, dim=-1):  # shorter than the kernel
        y, tail = fft_convolution(K, part, tail, chunk=chunk)
        pieces.append(y)
    assert distance(torch.cat(pieces, dim=-1), truth) <= 1e-12


def test_overlap_save_differentiates() -> None:
    leaves = [x.requires_grad_() for x in (normal(1, 3), normal(1, 1, 9), normal(1, 1, 2))]
    assert torch.autograd.gradcheck(lambda *given: fft_convolution(*given, chunk=4), leaves)


def test_fast_lengths_are_the_smallest_products_of_two_three_five() -> None:
    products = sorted(2**i * 3**j * 5**k for i in range(11) for j in range(7) for k in range(5))
    for least in range(1, 1000):
        assert fast_length(least) == next(size for size in products if size >= least)


@pytest.mark.parametrize("backend", SHORT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels", [3, 67])
def test_decoding_continues_a_prefill_bit_for_bit(backend: str, dtype: torch.dtype, channels: int) -> None:
    x, weight, bias = (z.to(dtype) for z in (normal(2, 19, channels), normal(channels, 4), normal(channels)))
    whole, end = short_convolution(x, weight, bias, backend=backend)
    head, tail = short_convolution(x[:, :13], weight, bias, backend=backend)
    steps = [head]
    for t in range(13, 19):
        y, tail = short_convolution_step(x[:, t], weight, bias, tail, backend=backend)
        steps.append(y[:, None])
    assert torch.equal(torch.cat(steps, dim=1), whole)
    assert torch.equal(tail, end)
    assert torch.equal(short_convolution(x[1:], weight, bias, backend=backend)[0], whole[1:])


@pytest.mark.parametrize("backend", SHORT)
def test_the_short_convolution_is_conv1d(backend: str) -> None:
    leaves = [normal(2, 9, 5), normal(5, 4), normal(5), normal(2, 3, 5)]
    x, weight, bias, tail = (leaf.requires_grad_() for leaf in leaves)
    truth = F.conv1d(torch.cat([tail, x], dim=1).mT, weight[:, None], bias, groups=5).mT
    y, _ = short_convolution(x, weight, bias, tail, backend=backend)
    assert distance(y.detach(), truth.detach()) <= 1e-14
    assert torch.autograd.gradcheck(
        lambda *given: short_convolution(*given, backend=backend), (x, weight, bias, tail), fast_mode=True
    )


def test_no_imaginary_part_is_a_decay() -> None:
    """One real mode: y = sum_j e^{-j/8} u, in closed form for a step."""
    a = torch.tensor([[-1 / 8 + 0j]], dtype=torch.complex128)
    one = torch.ones_like(a)
    y, last = s4d_chunked(a, one, one, torch.zeros(1).double(), torch.ones(1, 1, 300).double(), backend="torch")
    t = torch.arange(300).double()
    truth = (1 - torch.exp(-(t + 1) / 8)) / (1 - math.exp(-1 / 8))
    assert distance(y[0, 0], truth) <= 1e-14
    assert abs(complex(last[0, 0, 0]) - float(truth[-1])) <= 1e-13


A, U = rates(2, 3), normal(1, 2, 8)
WRONG = {
    "real a": lambda: s4d_kernel(A.real, A, 4),
    "c of another shape": lambda: s4d_kernel(A, A[:, :2], 4),
    "c of another dtype": lambda: s4d_kernel(A, A.to(torch.complex64), 4),
    "a negative length": lambda: s4d_kernel(A, A, -1),
    "u of another precision": lambda: s4d_chunked(A, A, A, U[0, :, 0], U.float()),
    "u of other systems": lambda: s4d_chunked(A, A, A, U[0, :, 0], U[:, :1]),
    "D of another precision": lambda: s4d_chunked(A, A, A, U[0, :, 0].float(), U),
    "x0 of another batch": lambda: s4d_chunked(A, A, A, U[0, :, 0], U, A[None].expand(2, 2, 3)),
    "an empty chunk": lambda: state_passing_convolution(
        A, A[..., None], A[:, None], U[0, :, :1, None], U[..., None], chunk=0
    ),
    "B without inputs' axis": lambda: state_passing_convolution(A, A, A[:, None], U[0, :, :1, None], U[..., None]),
    "a tail too short": lambda: fft_convolution(U[0], U, U[..., :6]),
    "another number of channels": lambda: fft_convolution(U[0, :1], U),
    "an integer kernel": lambda: fft_convolution(U[0].long(), U.long()),
    "a weight of other channels": lambda: short_convolution(U, U[0]),
    "no taps": lambda: short_convolution(U, U[0].mT[:, :0]),
    "a step with a time axis": lambda: short_convolution_step(U, U[0].mT, None, U),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ValueError) as caught:
        WRONG[name]()
    assert "\n" not in str(caught.value)


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(BackendError):
        s4d_kernel(A, A, 4, backend="fast")


@pytest.mark.parametrize("operation", ["kernel", "chunked", "passing"])
def test_torch_compile_sees_one_graph(operation: str) -> None:
    torch.compiler.reset()
    D = U[0, :, 0]
    run = {
        "kernel": lambda u: s4d_kernel(A, A, 9),
        "chunked": lambda u: s4d_chunked(A, A, A, D, u)[0],
        "passing": lambda u: state_passing_convolution(A, A[..., None], A[:, None], D[:, None, None], u[..., None])[0],
    }[operation]
    assert torch.allclose(torch.compile(run, backend="aot_eager", fullgraph=True)(U), run(U), rtol=1e-12)
