"""A drafter grows a tree of tokens that may come next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmtool.pipeline.generate import Memories, advance
from ssmtool.pipeline.speculative.memories import joined, rows_of
from ssmtool.pipeline.speculative.plan import Confidence, Plan
from ssmtool.selective.language import LanguageModel
from ssmtool_kernels.tree import Tree

LEAST = 0.02  # adaptive trees: a node that is less probable than this is not worth verifying


@dataclass(frozen=True)
class Level:
    """Nodes the drafter has read: memories of b times `width` sequences, those of one sequence side by side."""

    memories: Memories
    width: int


@dataclass(frozen=True)
class Draft:
    """A tree of tokens for every sequence of a batch, of one shape.

    Attributes:
        tree: T nodes; node 0 is the last token that is certain, which nobody has read yet.
        tokens: (b, T) int64.
        read: node -> (level, place in the level), of the nodes the drafter has read.
        levels: what it carried after them.
        promised: sum of the drafted nodes' probabilities, mean over the batch: tokens it expects to be accepted.
    """

    tree: Tree
    tokens: Tensor
    read: Mapping[int, tuple[int, int]]
    levels: tuple[Level, ...]
    promised: float

    def memories(self, nodes: list[int]) -> Memories:
        """The drafter's memories after a node it has read, one per sequence."""
        places = [self.read[node] for node in nodes]
        device = self.tokens.device
        if len({level for level, _ in places}) == 1:
            level = self.levels[places[0][0]]
            rows = [i * level.width + place for i, (_, place) in enumerate(places)]
            return rows_of(level.memories, torch.tensor(rows, device=device))
        starts = [0]
        for level in self.levels:
            starts.append(starts[-1] + len(nodes) * level.width)
        rows = [starts[level] + i * self.levels[level].width + place for i, (level, place) in enumerate(places)]
        return rows_of(joined([level.memories for level in self.levels]), torch.tensor(rows, device=device))


class _Growth:
    """Nodes in the order of their making: parents, tokens, and the drafter's log probability of the path to each."""

    def __init__(self, pending: Tensor) -> None:
        self.parents = [-1]
        self.tokens = [pending]
        self.values = [1.0]
        self.read: dict[int, tuple[int, int]] = {}

    def add(self, parent: int, tokens: Tensor, value: float) -> int:
        self.parents.append(parent)
        self.tokens.append(tokens)
        self.values.append(min(value, self.values[parent]))  # rounding must not make a child likelier
        return len(self.parents) - 1


def draft_tree(
    model: LanguageModel,
    plan: Plan,
    pending: Tensor,
    logits: Tensor,
    memories: Memories,
    *,
    confidence: Confidence | None = None,
    cost: float = 1.0,
) -> Draft:
    """Grow a tree below the last certain token.

    A fixed plan takes the drafter's `width` likeliest first tokens and continues each by the likeliest one. An adaptive
    plan reads, level by level, the nodes with the largest probability of the path to them, keeps the `nodes` best of
    all it has seen but for improbable ones, and stops where a further level would add fewer tokens per unit of time
    than the round has so far (EAGLE-2, Li et al. 2024, sections 4.1 and 4.2, with a depth of its own).
    Probabilities are means over the batch: the k-th likeliest token of a node is another token in every sequence, but
    the same node.

    Args:
        model: the drafter.
        plan: shape.
        pending: (b,) the last certain tokens.
        logits, memories: the drafter's after reading them.
        confidence: how often its expectations come true.
        cost: of a step of the drafter over one of the verifier.
    """
    growth = _Growth(pending)
    growth.read[0] = (0, 0)
    levels = [Level(memories, 1)]
    frontier, paths = [0], logits.new_zeros(len(pending), 1)
    sums = [1.0]
    factor = 1.0 if confidence is None else confidence.factor
    for depth in range(1, plan.depth + 1):
        width = len(frontier)
        count = min(plan.width if depth == 1 or plan.adaptive else 1, logits.shape[-1])
        top, tokens = F.log_softmax(logits, dim=-1).unflatten(0, (-1, width)).topk(count, dim=-1)
        paths = (paths[..., None] + top).flatten(1)
        values = paths.exp().mean(0).tolist()
        flat = tokens.flatten(1)
        made = [growth.add(frontier[k // count], flat[:, k], values[k]) for k in range(width * count)]
        chosen = list(range(len(made)))
        if plan.adaptive:
            best = sorted(chosen, key=lambda k: -values[k])[: plan.width]
            chosen = sorted([k for k in best if values[k] >= LEAST] or best[:1])
        sums.append(sum(values[k] for k in chosen))
        if depth == plan.depth or (plan.adaptive and not _worth(sums, factor, cost)):
            break
        place = torch.tensor(chosen, device=flat.device)
        paths, flat = paths[:, place], flat[:, place]
        above = torch.arange(len(pending), device=flat.device)[:, None] * width + place // count
        logits, memories = advance(model, flat.reshape(-1, 1), rows_of(levels[-1].memories, above.flatten()))
        frontier = [made[k] for k in chosen]
        growth.read |= {node: (len(levels), i) for i, node in enumerate(frontier)}
        levels.append(Level(memories, len(frontier)))
    return _finished(growth, tuple(levels), plan)


def _worth(sums: list[float], factor: float, cost: float) -> bool:
    """Whether one more level adds tokens faster than the round has so far, verification included.

    The level is expected to hold on to the share of the probability that the last one did.
    """
    depth = len(sums) - 1
    gain = factor * sums[-1] * sums[-1] / max(sums[-2], 1e-9)
    return gain / cost >= (1 + factor * sum(sums[1:])) / (1 + depth * cost)


@lru_cache(maxsize=256)
def _tree(links: tuple[int, ...]) -> Tree:
    """The tree with these parents; the same few shapes come again and again."""
    return Tree.of(links)


def _finished(growth: _Growth, levels: tuple[Level, ...], plan: Plan) -> Draft:
    """The tree of the best nodes; a node never comes without its parent, which is at least as probable."""
    nodes = range(1, len(growth.parents))
    best = sorted(nodes, key=lambda i: (-growth.values[i], i))[: plan.nodes]
    if plan.adaptive:
        best = [i for i in best if growth.values[i] >= LEAST] or best[:1]
    kept = [0, *sorted(best)]
    number = {node: i for i, node in enumerate(kept)}
    return Draft(
        tree=_tree((-1, *(number[growth.parents[node]] for node in kept[1:]))),
        tokens=torch.stack([growth.tokens[node] for node in kept], dim=1),
        read={number[node]: where for node, where in growth.read.items() if node in number},
        levels=levels,
        promised=sum(growth.values[node] for node in kept[1:]),
    )
