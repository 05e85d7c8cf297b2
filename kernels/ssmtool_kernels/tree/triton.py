"""Scans over trees and replays on a GPU, forward only; every number is read once, no state of a node is written.

Mamba-2 is here: one program per sequence and head, the whole tree one masked chunk of matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.specimen import Specimen
from ssmtool_kernels.tree import triton_diagonal, triton_selective
from ssmtool_kernels.tree.triton_mask import as_bytes, padded_size, related_nodes


@triton.jit
def _ssd(
    x,
    dt,
    A,
    B,
    C,
    D,
    h0,
    related,
    y,
    T,
    H,
    P,
    G,
    N: tl.constexpr,
    TP: tl.constexpr,
    PP: tl.constexpr,
    NP: tl.constexpr,
    SKIP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """y = (M exp(s_i - s_j) (C B^T)) dt x + exp(s) C h0^T + D x with s = M dt A, for all nodes at once."""
    b, h = tl.program_id(0).to(tl.int64) // H, tl.program_id(0) % H
    number = h0.dtype.element_ty
    nodes, rows = tl.arange(0, TP), tl.program_id(1) * PP + tl.arange(0, PP)
    inside = nodes < T
    step = tl.load(dt + (b * T + nodes) * H + h, mask=inside, other=0.0).to(number)
    mask = related_nodes(related, nodes[:, None], nodes[None, :], T)
    total = tl.sum(tl.where(mask, (step * tl.load(A + h).to(number))[None, :], 0.0), 1)
    decay = tl.exp(tl.where(mask, total[:, None] - total[None, :], -float("inf")))
    group = ((b * T + nodes) * G + h // (H // G)) * N
    scores, start = tl.zeros((TP, TP), dtype=number), tl.zeros((TP, PP), dtype=number)
    for first in range(0, N, NP):
        n = first + tl.arange(0, NP)
        readout = tl.load(C + group[:, None] + n[None, :], mask=inside[:, None] & (n < N)[None, :], other=0.0)
        driven = tl.load(B + group[None, :] + n[:, None], mask=inside[None, :] & (n < N)[:, None], other=0.0)
        state = tl.load(
            h0 + ((b * H + h) * P + rows[None, :]) * N + n[:, None],
            mask=(rows < P)[None, :] & (n < N)[:, None],
            other=0.0,
        )
        readout = readout.to(number)
        scores = tl.dot(readout, driven.to(number), scores, input_precision=PRECISION, out_dtype=number)
        start = tl.dot(readout, state, start, input_precision=PRECISION, out_dtype=number)
    at = ((b * T + nodes[:, None]) * H + h) * P + rows[None, :]
    kept = inside[:, None] & (rows < P)[None, :]
    u = tl.load(x + at, mask=kept, other=0.0).to(number)
    start *= tl.exp(total)[:, None]
    if SKIP:
        start += tl.load(D + h * P + rows, mask=rows < P, other=0.0)[None, :] * u
    out = tl.dot(scores * decay * step[None, :], u, start, input_precision=PRECISION, out_dtype=number)
    tl.store(y + at, out.to(y.dtype.element_ty), mask=kept)


@triton.jit
def _replay_ssd(
    x,
    dt,
    A,
    B,
    h0,
    related,
    depths,
    accepted,
    h,
    T,
    H,
    P,
    G,
    N,
    TP: tl.constexpr,
    PP: tl.constexpr,
    NP: tl.constexpr,
):
    """h = exp(sum a) h0 + sum over the path of exp(sum of a behind j) dt_j x_j B_j^T, in full precision."""
    b, j = tl.program_id(0).to(tl.int64) // H, tl.program_id(0) % H
    number = h0.dtype.element_ty
    rows, n = tl.program_id(1) * PP + tl.arange(0, PP), tl.program_id(2) * NP + tl.arange(0, NP)
    nodes, last = tl.arange(0, TP), tl.load(accepted + b)
    known = tl.where(last < 0, 0, T)  # after no node there is no path
    on_path = tl.load(related + tl.maximum(last, 0) * T + nodes, mask=nodes < known, other=0) != 0
    step = tl.load(dt + (b * T + nodes) * H + j, mask=on_path, other=0.0).to(number)
    depth = tl.load(depths + nodes, mask=nodes < T, other=0)
    a = step * tl.load(A + j).to(number)
    behind = tl.sum(tl.where(depth[None, :] > depth[:, None], a[None, :], 0.0), 1)
    weights = tl.where(on_path, step * tl.exp(behind), 0.0)
    at = ((b * T + nodes[None, :]) * H + j) * P + rows[:, None]
    u = tl.load(x + at, mask=on_path[None, :] & (rows < P)[:, None], other=0.0).to(number) * weights[None, :]
    group = ((b * T + nodes) * G + j // (H // G)) * N
    driven = tl.load(B + group[:, None] + n[None, :], mask=on_path[:, None] & (n < N)[None, :], other=0.0).to(number)
    to = ((b * H + j) * P + rows[:, None]) * N + n[None, :]
    kept = (rows < P)[:, None] & (n < N)[None, :]
    state = tl.load(h0 + to, mask=kept, other=0.0) * tl.exp(tl.sum(a, 0))
    state = tl.dot(u, driven, state, input_precision="ieee", out_dtype=number)
    tl.store(h + to, state, mask=kept)


def _tiles(half: bool, padded: int) -> dict[str, int | str]:
    """Half-precision activations have no more digits than tf32; in full precision large tiles do not fit registers."""
    if half:
        return {"PP": 64, "NP": 32, "PRECISION": "tf32", "num_warps": 4 if padded <= 32 else 8}
    return {"PP": 32, "NP": 32 if padded <= 32 else 16, "PRECISION": "ieee", "num_warps": 4 if padded <= 32 else 8}


def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, h0: Tensor, related: Tensor
) -> Tensor:
    """Contiguous tensors; D (H, P) and h0 in the working dtype, the others in theirs."""
    batch, size, heads, width = x.shape
    groups, states = B.shape[2:]
    y, padded = torch.empty_like(x), padded_size(size)
    tiles = _tiles(x.dtype in (torch.float16, torch.bfloat16), padded)
    _ssd[(batch * heads, triton.cdiv(width, tiles["PP"]))](
        *(x, dt, A, B, C, h0 if D is None else D, h0, as_bytes(related), y, size, heads, width, groups),
        N=states,
        TP=padded,
        SKIP=D is not None,
        **tiles,
    )
    return y


def replay_ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, h0: Tensor, related: Tensor, depths: Tensor, accepted: Tensor
) -> Tensor:
    """The state (b, H, P, N) after the accepted node (b,); -1: h0."""
    batch, size, heads, width = x.shape
    groups, states = B.shape[2:]
    h, rows, padded = torch.empty_like(h0), 32, padded_size(size)
    columns = 64 if padded == 16 else 32  # the more nodes, the fewer registers are left
    _replay_ssd[(batch * heads, triton.cdiv(width, rows), triton.cdiv(states, columns))](
        *(x, dt, A, B, h0, as_bytes(related), depths, accepted, h, size, heads, width, groups, states),
        TP=padded,
        PP=rows,
        NP=columns,
        num_warps=4,
    )
    return h


def specimens() -> Iterator[Specimen]:
    """Trees of 16 and 64 nodes over the heads of Mamba-2, and the other two scans."""
    sizes = dict.fromkeys(("T", "H", "P", "G"), "i32")
    for dtype, size in (("bf16", 16), ("bf16", 64), ("fp32", 16), ("fp32", 64)):
        tiles = _tiles(dtype == "bf16", size)
        warps = int(tiles.pop("num_warps"))
        yield Specimen(
            kernel=_ssd,
            types={
                **dict.fromkeys(("x", "dt", "B", "C", "y"), f"*{dtype}"),
                **dict.fromkeys(("A", "D", "h0"), "*fp32"),
                "related": "*u8",
                **sizes,
            },
            constants={"N": 128, "TP": size, "SKIP": True, **tiles},
            label=f"{dtype} T={size}",
            warps=warps,
            aligned=("P",),
        )
    of_path = {**dict.fromkeys(("depths", "accepted"), "*i64"), "related": "*u8"}
    state = dict.fromkeys(("A", "h0", "h"), "*fp32")
    yield Specimen(
        kernel=_replay_ssd,
        types={**dict.fromkeys(("x", "dt", "B"), "*bf16"), **state, **of_path, **sizes, "N": "i32"},
        constants={"TP": 16, "PP": 32, "NP": 64},
        label="bf16 T=16",
        aligned=("P", "N"),
    )
    yield from triton_selective.specimens()
    yield from triton_diagonal.specimens()
