"""Scans over trees and replays on a GPU, forward only; every number is read once, no state of a node is written.

Mamba-2: one program per sequence and head; the whole tree is one masked chunk of matrix products. Mamba-1: a walk in
depth-first order, the states of the current path in registers. Time-invariant: the tree's weights gathered from the
kernel.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.specimen import Specimen
from ssmtool_kernels.tree.masked import begun, kernel

STACK = 4096  # states that a program of the selective scan keeps
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _related(related, rows, columns, T):
    """M[rows, columns] as a mask, false outside of the tree."""
    inside = (rows < T) & (columns < T)
    return tl.load(related + rows * T + columns, mask=inside, other=0) != 0


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
    mask = _related(related, nodes[:, None], nodes[None, :], T)
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


@triton.jit
def _advance(before, x, dt, A2, B, at, e, n, E, G, N, inside, valid):
    """State (W, N) after node `at` of the flat (b T), the inputs x (W,), and where the node's rows of B and C are."""
    number = before.dtype
    step = tl.load(dt + at * E + e, mask=inside, other=0.0).to(number)
    u = tl.load(x + at * E + e, mask=inside, other=0.0).to(number)
    group = (at * G + e // (E // G))[:, None] * N + n[None, :]
    rows = tl.load(B + group, mask=valid, other=0.0).to(number)
    return tl.exp2(step[:, None] * A2) * before + (step * u)[:, None] * rows, u, group


@triton.jit
def _selective(
    x,
    dt,
    A,
    B,
    C,
    D,
    h0,
    order,
    depths,
    y,
    T,
    E,
    G,
    N,
    W: tl.constexpr,
    NP: tl.constexpr,
    S: tl.constexpr,
    SKIP: tl.constexpr,
):
    """W channels; stack (S, W, N): level 0 is h0, level d + 1 the current node of depth d."""
    b, e, n = tl.program_id(0).to(tl.int64), tl.program_id(1) * W + tl.arange(0, W), tl.arange(0, NP)
    number = h0.dtype.element_ty
    inside = e < E
    valid = inside[:, None] & (n < N)[None, :]
    A2 = tl.load(A + e[:, None] * N + n[None, :], mask=valid, other=0.0).to(number) * LOG2E
    level = tl.arange(0, S)[:, None, None]
    state = tl.load(h0 + (b * E + e[:, None]) * N + n[None, :], mask=valid, other=0.0)
    stack = tl.where(level == 0, state[None, :, :], 0.0)
    turn = 0
    while turn < T:
        node = tl.load(order + turn)
        depth, at = tl.load(depths + node), b * T + node
        before = tl.sum(tl.where(level == depth, stack, 0.0), 0)
        now, u, group = _advance(before, x, dt, A2, B, at, e, n, E, G, N, inside, valid)
        out = tl.sum(now * tl.load(C + group, mask=valid, other=0.0).to(number), 1)
        if SKIP:
            out += tl.load(D + e, mask=inside, other=0.0) * u
        tl.store(y + at * E + e, out.to(y.dtype.element_ty), mask=inside)
        stack = tl.where(level == depth + 1, now[None, :, :], stack)
        turn += 1


@triton.jit
def _replay_selective(
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
    E,
    G,
    N,
    W: tl.constexpr,
    NP: tl.constexpr,
    TP: tl.constexpr,
):
    """The path from its root to the accepted node, step by step."""
    b, e, n = tl.program_id(0).to(tl.int64), tl.program_id(1) * W + tl.arange(0, W), tl.arange(0, NP)
    number = h0.dtype.element_ty
    inside = e < E
    valid = inside[:, None] & (n < N)[None, :]
    A2 = tl.load(A + e[:, None] * N + n[None, :], mask=valid, other=0.0).to(number) * LOG2E
    at = (b * E + e[:, None]) * N + n[None, :]
    state = tl.load(h0 + at, mask=valid, other=0.0)
    nodes, last = tl.arange(0, TP), tl.load(accepted + b)
    chosen = tl.maximum(last, 0)
    on_path = tl.load(related + chosen * T + nodes, mask=nodes < T, other=0) != 0
    depth = tl.load(depths + nodes, mask=nodes < T, other=-1)
    length, level = tl.where(last < 0, 0, tl.load(depths + chosen) + 1), 0
    while level < length:
        node = tl.sum(tl.where(on_path & (depth == level), nodes, 0), 0)
        state, _, _ = _advance(state, x, dt, A2, B, b * T + node, e, n, E, G, N, inside, valid)
        level += 1
    tl.store(h + at, state, mask=valid)


@triton.jit
def _diagonal(
    weights,
    D,
    u,
    begun,
    related,
    depths,
    y,
    T,
    systems,
    inputs,
    outputs,
    TP: tl.constexpr,
    SKIP: tl.constexpr,
):
    """One system and output: y_i = sum over inputs and j of M_ij K[depth_i - depth_j] u_j + begun_i + D u_i."""
    s, o = tl.program_id(0), tl.program_id(1)
    number = u.dtype.element_ty
    nodes = tl.arange(0, TP)
    inside = nodes < T
    mask = _related(related, nodes[:, None], nodes[None, :], T)
    depth = tl.load(depths + nodes, mask=inside, other=0)
    distance = tl.maximum(depth[:, None] - depth[None, :], 0)
    b = tl.program_id(2).to(tl.int64)
    to = ((b * systems + s) * T + nodes) * outputs + o
    out = tl.load(begun + to, mask=inside, other=0.0)
    q = 0
    while q < inputs:
        at = ((distance * systems + s) * outputs + o) * inputs + q
        K = tl.load(weights + at, mask=mask, other=0.0)
        drive = tl.load(u + ((b * systems + s) * T + nodes) * inputs + q, mask=inside, other=0.0)
        out += tl.sum(K * drive[None, :], 1)
        if SKIP:
            out += tl.load(D + (s * outputs + o) * inputs + q) * drive
        q += 1
    tl.store(y + to, out.to(number), mask=inside)


def _padded(size: int) -> int:
    return max(16, triton.next_power_of_2(size))


def _bytes(related: Tensor) -> Tensor:
    return related.contiguous().view(torch.uint8)


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
    y, padded = torch.empty_like(x), _padded(size)
    tiles = _tiles(x.dtype in (torch.float16, torch.bfloat16), padded)
    _ssd[(batch * heads, triton.cdiv(width, tiles["PP"]))](
        *(x, dt, A, B, C, h0 if D is None else D, h0, _bytes(related), y, size, heads, width, groups),
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
    h, rows, padded = torch.empty_like(h0), 32, _padded(size)
    columns = 64 if padded == 16 else 32  # the more nodes, the fewer registers are left
    _replay_ssd[(batch * heads, triton.cdiv(width, rows), triton.cdiv(states, columns))](
        *(x, dt, A, B, h0, _bytes(related), depths, accepted, h, size, heads, width, groups, states),
        TP=padded,
        PP=rows,
        NP=columns,
        num_warps=4,
    )
    return h


def selective(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    h0: Tensor,
    order: Tensor,
    depths: Tensor,
    levels: int,
) -> Tensor:
    """Contiguous tensors; D (E,) and h0 in the working dtype, the others in theirs."""
    batch, size, channels = x.shape
    groups, states = B.shape[2:]
    y, padded, stack = torch.empty_like(x), triton.next_power_of_2(states), triton.next_power_of_2(levels + 1)
    block = max(1, min(32, STACK // (padded * stack), triton.next_power_of_2(channels)))
    _selective[(batch, triton.cdiv(channels, block))](
        *(x, dt, A, B, C, h0 if D is None else D, h0, order, depths, y, size, channels, groups, states),
        W=block,
        NP=padded,
        S=stack,
        SKIP=D is not None,
        num_warps=4,
    )
    return y


def replay_selective(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, h0: Tensor, related: Tensor, depths: Tensor, accepted: Tensor
) -> Tensor:
    """The state (b, E, N) after the accepted node (b,); -1: h0."""
    batch, size, channels = x.shape
    groups, states = B.shape[2:]
    h, padded = torch.empty_like(h0), triton.next_power_of_2(states)
    block = max(1, min(32, STACK // padded, triton.next_power_of_2(channels)))
    _replay_selective[(batch, triton.cdiv(channels, block))](
        *(x, dt, A, B, h0, _bytes(related), depths, accepted, h, size, channels, groups, states),
        W=block,
        NP=padded,
        TP=_padded(size),
        num_warps=4,
    )
    return h


def diagonal(
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    u: Tensor,
    x0: Tensor,
    related: Tensor,
    depths: Tensor,
    levels: int,
) -> Tensor:
    """Contiguous tensors; kernel and what the incoming state adds come from PyTorch, sums over ancestors from here."""
    batch, systems, size, inputs = u.shape
    outputs = C.shape[1]
    weights, start = kernel(lam, B, C, levels).contiguous(), begun(lam, C, x0, depths, levels).contiguous()
    y = torch.empty_like(start)
    _diagonal[(systems, outputs, batch)](
        *(weights, weights if D is None else D, u, start, _bytes(related), depths, y),
        *(size, systems, inputs, outputs),
        TP=_padded(size),
        SKIP=D is not None,
        num_warps=4,
    )
    return y


def specimens() -> Iterator[Specimen]:
    """Trees of 16 and 64 nodes over the heads of Mamba-2, 16 nodes over the channels of Mamba-1 and over S4D."""
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
    sizes = dict.fromkeys(("T", "E", "G", "N"), "i32")
    types = {**dict.fromkeys(("x", "dt", "B", "C", "y"), "*bf16"), **dict.fromkeys(("A", "D", "h0"), "*fp32")}
    yield Specimen(
        kernel=_selective,
        types={**types, **dict.fromkeys(("order", "depths"), "*i64"), **sizes},
        constants={"W": 32, "NP": 16, "S": 8, "SKIP": True},
        label="bf16 N=16 levels=7",
        aligned=("E", "N"),
    )
    yield Specimen(
        kernel=_replay_selective,
        types={**dict.fromkeys(("x", "dt", "B"), "*bf16"), **state, **of_path, **sizes},
        constants={"W": 32, "NP": 16, "TP": 16},
        label="bf16 N=16",
        aligned=("E", "N"),
    )
    yield Specimen(
        kernel=_diagonal,
        types={
            **dict.fromkeys(("weights", "D", "u", "begun", "y"), "*fp32"),
            "related": "*u8",
            "depths": "*i64",
            **dict.fromkeys(("T", "systems", "inputs", "outputs"), "i32"),
        },
        constants={"TP": 16, "SKIP": True},
        label="fp32 T=16",
    )
