"""The chunked diagonal scan on every backend, registered with PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssmtool_kernels.backends import FLOATS
from ssmtool_kernels.checks import dimensions, same_kind, shaped
from ssmtool_kernels.s4d_chunked.chunked import SIZE, Chunk, chunk, chunked_scan
from ssmtool_kernels.s4d_chunked.naive import s4d_naive
from ssmtool_kernels.s4d_kernel.op import plain
from ssmtool_kernels.s4d_kernel.two_level import powers


def s4d_chunked(
    a: Tensor, B: Tensor, C: Tensor, D: Tensor, u: Tensor, x0: Tensor | None = None, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """x[k] = lam x[k-1] + B u[k],  y[k] = Re sum(C x[k]) + D u[k] with lam = exp(a), as matrix products.

    Args:
        a, B, C: (H, n) complex64, or complex128 for inputs in float64; a the logarithms of the eigenvalues.
        D: (H,) real, of a's precision.
        u: (b, H, L) inputs. float16 is computed in float32, bfloat16 on the GPU with tables in bfloat16 and sums and
            states in float32.
        x0: (b, H, n) complex state before the first step; 0 by default.
        backend: see `ssmtool_kernels.backends`. There is no C source: on the CPU the matrix products are PyTorch's.

    Returns:
        y (b, H, L) of u's dtype, and the state (b, H, n) after the last step. Differentiable once.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        BackendError: the backend cannot run here.

    Source: the state-space dual of Mamba-2 (Dao & Gu 2024, section 6) for systems that do not change with time, whose
    matrices of a chunk are the same for all chunks.
    """
    systems, n = dimensions("a", a, "H, n")
    batch, _, length = dimensions("u", u, "b, H, L")
    shaped("u", u, batch, systems, length, letters="(b, H, L)")
    for name, tensor in (("B", B), ("C", C)):
        shaped(name, tensor, systems, n, letters="(H, n)")
    shaped("D", D, systems, letters="(H,)")
    shaped("x0", x0, batch, systems, n, letters="(b, H, n)")
    same_kind("a", a, B=B, C=C, x0=x0)
    if not a.is_complex() or D.dtype != a.real.dtype or u.dtype not in FLOATS:
        raise ValueError(f"a is {a.dtype}, D {D.dtype}, u {u.dtype}: complex, its real, and a float are needed")
    if (u.dtype == torch.float64) != (a.dtype == torch.complex128):
        raise ValueError(f"a is {a.dtype} and u is {u.dtype}: float64 goes with complex128")
    if u.device != a.device or D.device != a.device:
        raise ValueError(f"a is on {a.device}, D on {D.device}, u on {u.device}")
    chosen = plain(backend, a)
    wide = u.to(D.dtype)
    if chosen == "naive":
        y, last = s4d_naive(a, B, C, D, wide, x0)
        return y.to(u.dtype), last
    state = a.new_zeros((batch, systems, n)) if x0 is None else x0
    if u.numel() == 0 or n == 0:
        return (wide * D[:, None]).to(u.dtype), state.clone()
    table = powers(a, SIZE + 1)
    whole = length - length % SIZE if chosen == "triton" else 0
    parts = []
    if whole:
        y, state = _on_gpu(chunk(table, B, C, D), u[..., :whole], state)
        parts.append(y)
    if whole < length:
        y, state = chunked_scan(table, B, C, D, wide[..., whole:], state)
        parts.append(y.to(u.dtype))
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)), state


def _on_gpu(matrices: Chunk, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Tables of bfloat16 inputs are bfloat16; the decay from chunk to chunk, which is applied over and over, is not."""
    dtype = torch.bfloat16 if u.dtype == torch.bfloat16 else matrices.T.dtype
    T, V, W = (table.to(dtype) for table in (matrices.T, matrices.V, matrices.W))
    y, last = _scan(u, T, V, W, _pairs(matrices.decay), _pairs(x))
    return y, torch.view_as_complex(last.unflatten(-1, (-1, 2)))


def _pairs(x: Tensor) -> Tensor:
    """(..., n) complex as (..., 2n) real."""
    return torch.view_as_real(x.resolve_conj()).flatten(-2)


@torch.library.custom_op("ssmtool::s4d_chunked", mutates_args=())
def _scan(u: Tensor, T: Tensor, V: Tensor, W: Tensor, decay: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
    """u: (b, H, M Q); T, V, W as in `Chunk`; decay (H, 2n), x0 (b, H, 2n) real. Returns y and the last state."""
    from ssmtool_kernels.s4d_chunked import triton

    y, last, _ = triton.run(u.contiguous(), *(x.contiguous() for x in (T, V, W, decay, x0)))
    return y, last


@_scan.register_fake
def _(u: Tensor, T: Tensor, V: Tensor, W: Tensor, decay: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), x0.new_empty(x0.shape)


@torch.library.custom_op("ssmtool::s4d_chunked_backward", mutates_args=())
def _scan_backward(
    u: Tensor, T: Tensor, V: Tensor, W: Tensor, decay: Tensor, x0: Tensor, dy: Tensor, dlast: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """With Z[i] what is lost by the state before chunk i: the same scan from the end, matrices transposed,
    Z[i] = conj(lam^Q) Z[i+1] + dY W^T,  dU = dY T^T + Z[i+1] V^T.
    """
    from ssmtool_kernels.s4d_chunked import triton

    u, dy = u.contiguous(), dy.contiguous()
    V, W, decay, x0 = (x.contiguous() for x in (V, W, decay, x0))
    conjugate = decay.clone()
    conjugate[:, 1::2] *= -1
    _, _, x = triton.run(u, T.contiguous(), V, W, decay, x0, outputs=False, states=True)
    T_, V_, W_ = (matrix.mT.contiguous() for matrix in (T, W, V))  # of the adjoint: what W was is V now
    du, dx0, z = triton.run(dy, T_, V_, W_, conjugate, dlast.contiguous(), states=True, backwards=True)
    dT, dV, dW = (torch.zeros(matrix.shape, dtype=x.dtype, device=u.device) for matrix in (T, V, W))
    for one_u, one_dy, one_x, one_z in zip(u, dy, x, z, strict=True):
        rows, lost = (part.to(x.dtype).unflatten(1, (-1, T.shape[1])) for part in (one_u, one_dy))
        dT.baddbmm_(rows.mT, lost)
        dV.baddbmm_(rows.mT, one_z)
        dW.baddbmm_(one_x.mT, lost)
    xs, zs = (torch.view_as_complex(pairs.unflatten(-1, (-1, 2))) for pairs in (x, z))
    ddecay = _pairs((xs.conj() * zs).sum((0, 2)))
    return du, dT.to(T.dtype), dV.to(V.dtype), dW.to(W.dtype), ddecay, dx0


@_scan_backward.register_fake
def _(
    u: Tensor, T: Tensor, V: Tensor, W: Tensor, decay: Tensor, x0: Tensor, dy: Tensor, dlast: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    made = [x.new_empty(x.shape) for x in (u, T, V, W, decay, x0)]
    return made[0], made[1], made[2], made[3], made[4], made[5]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Any, ...]:
    return _scan_backward(*ctx.saved_tensors, dy, dlast)


_scan.register_autograd(_differentiate, setup_context=_setup)
