"""The scan of Mamba-1 over a tree on a GPU: a walk in depth-first order, states of the current path in registers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.specimen import Specimen
from ssmtool_kernels.tree.triton_mask import as_bytes, padded_size

STACK = 4096  # states that a program keeps
LOG2E = tl.constexpr(1.4426950408889634)


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
        *(x, dt, A, B, h0, as_bytes(related), depths, accepted, h, size, channels, groups, states),
        W=block,
        NP=padded,
        TP=padded_size(size),
        num_warps=4,
    )
    return h


def specimens() -> Iterator[Specimen]:
    """Trees of 7 levels over channels with 16 states."""
    of_path = {**dict.fromkeys(("depths", "accepted"), "*i64"), "related": "*u8"}
    state = dict.fromkeys(("A", "h0", "h"), "*fp32")
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
