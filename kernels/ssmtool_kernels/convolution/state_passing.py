"""Causal convolution of long inputs, a chunk at a time: within a chunk by FFT, from chunk to chunk by the state.

Memory beyond inputs and outputs is that of one chunk. What the state does to a chunk and what a chunk does to the state
are sums over powers of the eigenvalues, done as matrix products (`s4d_kernel.two_level`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssmtool_kernels.checks import dimensions, same_kind, shaped
from ssmtool_kernels.convolution.lengths import fast_length
from ssmtool_kernels.s4d_kernel.two_level import collect, expand, powers, tables

CHUNK = 1024

Step = Callable[
    [Tensor, Tensor], tuple[Tensor, Tensor]
]  # inputs (S, b, m, q), state (S, b, n) -> y (S, b, p, q), state


def state_passing_convolution(
    a: Tensor, B: Tensor, C: Tensor, D: Tensor, u: Tensor, x0: Tensor | None = None, *, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """x[k] = lam x[k-1] + B u[k],  y[k] = Re(C x[k]) + D u[k] with lam = exp(a).

    Args:
        a: (S, n) complex logarithms of the eigenvalues.
        B: (S, n, m), C: (S, p, n) complex, of a's dtype.  D: (S, p, m) real.
        u: (S, L, m) or (b, S, L, m) real inputs, of D's dtype.
        x0: (S, n) or (b, S, n) complex state before the first step; 0 by default.
        chunk: steps of a chunk. Results differ by rounding only.

    Returns:
        y (S, L, p) or (b, S, L, p) real, and the state (S, n) or (b, S, n) after the last step. Differentiable.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or a chunk of no step.
    """
    single = u.ndim == 3
    v = u[None] if single else u
    start = x0[None] if single and x0 is not None else x0
    _check(a, B, C, D, v, start, chunk)
    batch, systems, length, _ = v.shape
    state = a.new_zeros((systems, batch, a.shape[1])) if start is None else start.transpose(0, 1)
    if length == 0 or batch == 0 or systems == 0:
        y, last = v.new_zeros((batch, systems, length, D.shape[1])), state.transpose(0, 1).clone()
        return (y[0], last[0]) if single else (y, last)
    size = min(chunk, length)
    through_kernels = B.shape[2] * C.shape[1] <= max(a.shape[1], 1)
    step = (_by_kernels if through_kernels else _by_modes)(a, B, C, size)
    inputs = v.permute(1, 0, 3, 2)
    outputs = []
    for first in range(0, length, size):
        piece, state = step(inputs[..., first : first + size], state)
        outputs.append(piece)
    y = torch.cat(outputs, dim=-1).permute(1, 0, 3, 2)
    y = y + (D[:, 0, 0, None, None] * v if D.shape[1:] == (1, 1) else v @ D.mT)
    last = state.transpose(0, 1)
    return (y[0], last[0]) if single else (y, last)


def _check(a: Tensor, B: Tensor, C: Tensor, D: Tensor, u: Tensor, x0: Tensor | None, chunk: int) -> None:
    systems, n = dimensions("a", a, "S, n")
    batch, _, length, inputs = dimensions("u", u, "b, S, L, m")
    shaped("u", u, batch, systems, length, inputs, letters="(b, S, L, m)")
    outputs = dimensions("D", D, "S, p, m")[1]
    shaped("B", B, systems, n, inputs, letters="(S, n, m)")
    shaped("C", C, systems, outputs, n, letters="(S, p, n)")
    shaped("D", D, systems, outputs, inputs, letters="(S, p, m)")
    shaped("x0", x0, batch, systems, n, letters="(b, S, n)")
    same_kind("a", a, B=B, C=C, x0=x0)
    same_kind("u", u, D=D)
    if not a.is_complex() or u.dtype != a.real.dtype:
        raise ValueError(f"a is {a.dtype} and u is {u.dtype}: complex and the real of its precision are needed")
    if chunk < 1:
        raise ValueError(f"a chunk of {chunk} steps")


def _by_kernels(a: Tensor, B: Tensor, C: Tensor, size: int) -> Step:
    """Few inputs and outputs: an FFT of each, and one convolution kernel for every pair."""
    p, m = C.shape[1], B.shape[2]
    two = tables(a, size)
    lam = torch.exp(a)
    pairs = (C[:, :, None] * B.mT[:, None]).flatten(1, 2)
    points = fast_length(2 * size - 1)
    spectrum = torch.fft.rfft(expand(two, pairs), n=points).unflatten(1, (p, m))

    def step(u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        length, batch = u.shape[-1], u.shape[1]
        driven = torch.fft.rfft(u, n=points)
        mixed = spectrum[:, None, :, 0] * driven if m == 1 else torch.einsum("spmf,sbmf->sbpf", spectrum, driven)
        seen = ((C * lam[:, None])[:, None] * x[:, :, None]).flatten(1, 2)
        y = torch.fft.irfft(mixed, n=points)[..., :length] + expand(two, seen).unflatten(1, (batch, p))[..., :length]
        sums = collect(two, u.flip(-1).flatten(1, 2)).unflatten(1, (batch, m))
        return y, _decay(a, length)[:, None] * x + (sums * B.mT[:, None]).sum(2)

    return step


def _by_modes(a: Tensor, B: Tensor, C: Tensor, size: int) -> Step:
    """Many inputs and outputs: an FFT of every mode's input, whose convolution is the state at every step."""
    table = powers(a, size + 1)
    points = fast_length(2 * size - 1)
    spectrum = torch.fft.fft(table[..., :-1], n=points)

    def step(u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        length = u.shape[-1]
        driven = torch.fft.fft(B[:, None] @ u.to(B.dtype), n=points)
        states = torch.fft.ifft(spectrum[:, None] * driven)[..., :length]
        states = states + table[:, None, :, 1 : length + 1] * x[..., None]
        return (C[:, None] @ states).real, states[..., -1]

    return step


def _decay(a: Tensor, length: int) -> Tensor:
    """exp(a length)."""
    return powers(a, 2, length)[..., 1]
