"""Scans over trees as matrix forms in plain PyTorch, differentiable: a chunk of SSD with the tree's mask.

With M[i, j] = 1 where j is i or an ancestor of i, s = M a and a = dt A:
y_i = e^{s_i} C_i h0 + sum_j M_ij (C_i . B_j) e^{s_i - s_j} dt_j x_j + D x_i (Dao and Gu, 2024, section 6, with the sum
over ancestors for the sum over the past). Exponents of pairs that are not related are set to -inf before the
exponential: they may be positive, and infinity times zero would reach the gradients as NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels.tree.tree import Tree


def _with_nothing(tree: Tree, like: Tensor) -> Tensor:
    """M (T + 1, T); the last row, that of node -1, is empty."""
    return torch.cat([tree.ancestors, tree.ancestors.new_zeros(1, tree.size)]).to(like.device)


def tree_ssd_masked(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, h0: Tensor, tree: Tree
) -> Tensor:
    """y (b, T, H, P): see `tree_ssd`."""
    batch, size, heads, width = x.shape
    groups = B.shape[2]
    split = (groups, heads // groups)
    related = tree.ancestors.to(x.device)
    total = torch.einsum("ij,bjh->bhi", related.to(x.dtype), dt * A).unflatten(1, split)
    spans = (total[..., :, None] - total[..., None, :]).masked_fill(~related, -torch.inf)
    scores = torch.einsum("bign,bjgn->bgij", C, B)[:, :, None] * spans.exp()
    driven = (x * dt[..., None]).unflatten(2, split)
    y = torch.einsum("bgkij,bjgkp->bigkp", scores, driven)
    begun = torch.einsum("bgkpn,bign->bgkip", h0.unflatten(1, split), C) * total.exp()[..., None]
    y = (y + begun.permute(0, 3, 1, 2, 4)).reshape(batch, size, heads, width)
    return y if D is None else y + D * x


def replay_ssd_masked(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, h0: Tensor, tree: Tree, node: Tensor) -> Tensor:
    """h (b, H, P, N) after the path to node (b,)."""
    related = _with_nothing(tree, x)
    total = torch.einsum("ij,bjh->bih", related.to(x.dtype), dt * A)
    own = total[torch.arange(len(node), device=x.device), node]
    spans = (own[:, None] - total[:, :-1]).masked_fill(~related[node][..., None], -torch.inf)
    repeat = x.shape[2] // B.shape[2]
    driven = x * (dt * spans.exp())[..., None]
    added = torch.einsum("bthp,bthn->bhpn", driven, B.repeat_interleave(repeat, dim=2))
    return own.exp()[..., None, None] * h0 + added


def tree_selective_levels(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, h0: Tensor, tree: Tree
) -> Tensor:
    """y (b, T, E): see `tree_selective_scan`. Level by level: here C . B does not leave the sum over states."""
    repeat = x.shape[2] // B.shape[2]
    outputs, before, place = [], h0[:, None], {-1: 0}
    for nodes in tree.levels:
        here = list(nodes)
        above = [place[tree.links[i]] for i in here]
        rows, readout = (part[:, here].repeat_interleave(repeat, dim=2) for part in (B, C))
        step = dt[:, here, :, None]
        before = torch.exp(step * A) * before[:, above] + step * x[:, here, :, None] * rows
        outputs.append((before * readout).sum(-1))
        place = {node: k for k, node in enumerate(here)}
    y = torch.cat(outputs, dim=1)[:, _back(tree)] if outputs else torch.zeros_like(x)
    return y if D is None else y + D * x


def replay_selective_masked(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, h0: Tensor, tree: Tree, node: Tensor
) -> Tensor:
    """h (b, E, N) after the path to node (b,)."""
    related = _with_nothing(tree, x)
    total = torch.einsum("ij,bje->bie", related.to(x.dtype), dt)
    own = total[torch.arange(len(node), device=x.device), node]
    spans = (own[:, None] - total[:, :-1])[..., None] * A
    decays = spans.masked_fill(~related[node][..., None, None], -torch.inf).exp()
    rows = B.repeat_interleave(x.shape[2] // B.shape[2], dim=2)
    return torch.exp(own[..., None] * A) * h0 + (decays * (dt * x)[..., None] * rows).sum(1)


def powers(lam: Tensor, count: int) -> Tensor:
    """lam^0 … lam^(count - 1): (count, S, n)."""
    found = [torch.ones_like(lam)]
    for _ in range(count - 1):
        found.append(found[-1] * lam)
    return torch.stack(found)


def kernel(lam: Tensor, B: Tensor, C: Tensor, count: int) -> Tensor:
    """K[d] = Re(C lam^d B), d = 0 … count - 1: (count, S, p, m) real."""
    return torch.einsum("spn,dsn,snm->dspm", C, powers(lam, count), B).real


def begun(lam: Tensor, C: Tensor, x0: Tensor, depths: Tensor, levels: int) -> Tensor:
    """What the incoming state adds: Re(C lam^(d + 1) x0) at depth d, (b, S, T, p) real."""
    steps = powers(lam, levels + 1)[1:]
    return torch.einsum("spn,dsn,bsn->bsdp", C, steps, x0).real[:, :, depths]


def tree_diagonal_masked(
    lam: Tensor, B: Tensor, C: Tensor, D: Tensor | None, u: Tensor, x0: Tensor, tree: Tree
) -> Tensor:
    """y (b, S, T, p): y_i = sum_j M_ij K[depth_i - depth_j] u_j + Re(C lam^(depth_i + 1) x0) + D u_i."""
    if B.shape[2] * C.shape[1] > lam.shape[1]:  # a kernel of p x m numbers is larger than the state
        return _diagonal_levels(lam, B, C, D, u, x0, tree)
    related, depths = tree.ancestors.to(u.device), tree.depths.to(u.device)
    distance = (depths[:, None] - depths).clamp_min(0)
    weights = kernel(lam, B, C, len(tree.levels))[distance]
    weights = weights.masked_fill(~related[..., None, None, None], 0)
    y = torch.einsum("ijspm,bsjm->bsip", weights, u) + begun(lam, C, x0, depths, len(tree.levels))
    return y if D is None else y + torch.einsum("spm,bstm->bstp", D, u)


def _diagonal_levels(lam: Tensor, B: Tensor, C: Tensor, D: Tensor | None, u: Tensor, x0: Tensor, tree: Tree) -> Tensor:
    driven = torch.einsum("snm,bstm->bstn", B, u.to(lam.dtype))
    states, before, place = [], x0[:, :, None], {-1: 0}
    for nodes in tree.levels:
        here = list(nodes)
        before = lam[:, None] * before[:, :, [place[tree.links[i]] for i in here]] + driven[:, :, here]
        states.append(before)
        place = {node: k for k, node in enumerate(here)}
    y = torch.einsum("spn,bstn->bstp", C, torch.cat(states, dim=2)[:, :, _back(tree)]).real
    return y if D is None else y + torch.einsum("spm,bstm->bstp", D, u)


def replay_diagonal_masked(lam: Tensor, B: Tensor, u: Tensor, x0: Tensor, tree: Tree, node: Tensor) -> Tensor:
    """x (b, S, n) after the path to node (b,): lam^(depth + 1) x0 + sum_j M_j lam^(depth - depth_j) B u_j."""
    related = _with_nothing(tree, u)[node]
    depths = torch.cat([tree.depths, tree.depths.new_full((1,), -1)]).to(u.device)
    steps = powers(lam, len(tree.levels) + 1)
    decays = steps[(depths[node][:, None] - depths[:-1]).clamp_min(0)]
    decays = decays.masked_fill(~related[..., None, None], 0)
    driven = torch.einsum("snm,bstm->btsn", B, u.to(lam.dtype))
    return steps[depths[node] + 1] * x0 + (decays * driven).sum(1)


def _back(tree: Tree) -> list[int]:
    """Where every node stands when the levels are put one after the other."""
    place = {node: k for k, node in enumerate(node for nodes in tree.levels for node in nodes)}
    return [place[node] for node in range(tree.size)]
