"""The time-invariant scan over a tree on a GPU: the tree's weights gathered from the impulse response."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.specimen import Specimen
from ssmtool_kernels.tree.masked import begun, kernel
from ssmtool_kernels.tree.triton_mask import as_bytes, padded_size, related_nodes


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
    mask = related_nodes(related, nodes[:, None], nodes[None, :], T)
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
        *(weights, weights if D is None else D, u, start, as_bytes(related), depths, y),
        *(size, systems, inputs, outputs),
        TP=padded_size(size),
        SKIP=D is not None,
        num_warps=4,
    )
    return y


def specimens() -> Iterator[Specimen]:
    """Trees of up to 16 nodes."""
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
