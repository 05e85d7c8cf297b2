"""Hankel singular values of batches of small systems on every backend, registered with PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels import native
from ssmtool_kernels.backends import resolve
from ssmtool_kernels.checks import dimensions, same_kind, shaped
from ssmtool_kernels.hankel.naive import hankel_values_naive

LARGEST = 64  # slots of a system
# |lambda - conj lambda| / |1 - lambda^2| below which a pair is not eliminated as a pair: that would cost the square of
# it, five digits.
_NEARLY_REAL = 3e-3


def hankel_values(a: Tensor, B: Tensor, C: Tensor, real: Tensor, *, backend: str = "auto") -> Tensor:
    """Hankel singular values of S systems x[k] = exp(a) x[k-1] + B u[k], y = Re(C x), one input and one output each.

    Every value keeps its relative accuracy, however small it is (docs/numerics.md). The poles of a system must be
    distinct: equal ones are merged before. Systems with a complex pair next to the real axis, where pairs are no basis,
    are computed as `naive` does it, slowly.

    Args:
        a: (S, N) complex, logarithms of poles, N <= 64; one of each conjugate pair.
        B, C: (S, N) complex; a slot with B C = 0 is switched off, whatever its pole.
        real: (S, N) bool, slots that are one real state: only the real part of C B counts.
        backend: see `ssmtool_kernels.backends`.

    Returns:
        (S, 2N) float64, descending; 0 beyond the order of a system (a pair counts 2, a real slot 1). No gradients.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit; a pole that is not stable; numbers that are not finite.
        BackendError: the backend cannot run here.
    """
    systems, slots = dimensions("a", a, "S, N")
    for name, tensor in (("B", B), ("C", C), ("real", real)):
        shaped(name, tensor, systems, slots, letters="(S, N)")
    if not a.is_complex():
        raise ValueError(f"a is {a.dtype}: complex logarithms are needed")
    same_kind("a", a, B=B, C=C)
    if real.dtype != torch.bool or real.device != a.device:
        raise ValueError(f"real is {real.dtype} on {real.device}, bool on {a.device} is needed")
    if slots > LARGEST:
        raise ValueError(f"systems have {slots} slots, {LARGEST} at most are possible")
    chosen = resolve(backend, a)
    a, B, C = (x.detach().to(torch.complex128) for x in (a, B, C))
    if torch.compiler.is_compiling():
        return _hankel(a, B, C, real, chosen)
    # There is no gradient to take care of, and the first call of a registered operation imports the compiler: a second.
    return _values(a, B, C, real, chosen)


def _values(a: Tensor, B: Tensor, C: Tensor, real: Tensor, backend: str) -> Tensor:
    residue = C * B
    residue = torch.where(real, residue.real.to(residue.dtype), residue)
    live = residue != 0
    _check(a, residue, live)
    root, negative = residue.sqrt(), real & (residue.real < 0)
    root = torch.where(real, residue.abs().sqrt().to(residue.dtype), root)
    # A slot that is off must not disturb the others: a harmless pole that reaches nothing.
    a, real = torch.where(live, a, -torch.ones_like(a)).contiguous(), real | ~live
    if a.numel() == 0:
        return a.real.new_zeros(len(a), 2 * a.shape[1])
    if backend in ("naive", "torch"):
        return hankel_values_naive(a, root, negative, real)
    if backend == "triton":
        from ssmtool_kernels.hankel import triton

        sigma = triton.values(a, root, negative, real)
    else:
        sigma = a.real.new_empty(len(a), 2 * a.shape[1])
        arguments = (torch.view_as_real(a), torch.view_as_real(root.contiguous()), negative, real.contiguous(), sigma)
        run = native.function("hankel", "values", torch.float64)
        run(*arguments, *a.shape, native.threads())
    careful = _nearly_real(a, real).nonzero()[:, 0]
    if len(careful):
        sigma[careful] = hankel_values_naive(a[careful], root[careful], negative[careful], real[careful])
    return sigma


_hankel = torch.library.custom_op("ssmtool::hankel_values", _values, mutates_args=())


@_hankel.register_fake
def _(a: Tensor, B: Tensor, C: Tensor, real: Tensor, backend: str) -> Tensor:
    return a.new_empty((a.shape[0], 2 * a.shape[1]), dtype=torch.float64)


def _check(a: Tensor, residue: Tensor, live: Tensor) -> None:
    """Raises ValueError, naming the first system at fault."""
    wrong = ~(torch.isfinite(a.real) & torch.isfinite(a.imag) & torch.isfinite(residue.abs())) & live
    for bad, said in ((wrong, "a number that is not finite"), (live & (a.real >= 0), "a pole that is not stable")):
        at = bad.any(1).nonzero()
        if len(at):
            raise ValueError(f"system {int(at[0])} has {said}")


def _nearly_real(a: Tensor, real: Tensor) -> Tensor:
    """(S,) bool: systems with a complex pair so close to the real axis that it should not be taken as a pair."""
    split = 2 * torch.exp(a.real) * torch.sin(a.imag).abs()
    return ((split < _NEARLY_REAL * (1 - torch.exp(2 * a)).abs()) & ~real).any(1)
