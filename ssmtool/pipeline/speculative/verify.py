"""The verifier reads a drafted tree in one pass and follows its own greedy choice through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssmtool.pipeline.generate import Memories, advance, stream, to_logits
from ssmtool.selective.language import LanguageModel
from ssmtool.selective.tree import Branches
from ssmtool_kernels.tree import Tree

# A pass over several tokens rounds otherwise than steps of one: on the trained fixtures logits differ by up to 1e-6 of
# their size. Two tokens closer than this many roundings are told apart by plain steps; ten times what was seen.
DOUBT = 160


@dataclass(frozen=True)
class Verified:
    """What the verifier says about a tree.

    Attributes:
        best: (b, T) its likeliest token after every node.
        sure: (b, T) whether that is certain in spite of rounding.
        settle: (b,) nodes -> its memories after the paths to them.
    """

    best: Tensor
    sure: Tensor
    settle: Callable[[Tensor], Memories]


def read_tree(model: LanguageModel, tokens: Tensor, tree: Tree, memories: Memories) -> Verified:
    """Read all nodes of a tree at once.

    Args:
        model: the verifier.
        tokens: (b, T).
        tree: T nodes; node 0 follows `memories`.
        memories: of the verifier, before the tree.
    """
    tree = tree.to(tokens.device)
    orders = {name: tuple(Branches(tree) for _ in model.mixers[name]) for name in model.names}
    x, _ = stream(model, tokens, memories, orders)
    logits = to_logits(model, x)
    top, best = logits.topk(2, dim=-1)
    doubt = DOUBT * torch.finfo(logits.dtype).eps * logits.abs().amax(-1)

    def settle(nodes: Tensor) -> Memories:
        return {name: tuple(order.memory(nodes) for order in parts) for name, parts in orders.items()}

    return Verified(best[..., 0], top[..., 0] - top[..., 1] > doubt, settle)


class PlainPath:
    """Plain decoding of one sequence, moved on only where it is asked: its choice is the definition of greedy.

    Args:
        model: the verifier.
        memories: after the prompt, as a batch of one.

    Attributes:
        steps: tokens it has read.
    """

    def __init__(self, model: LanguageModel, memories: Memories) -> None:
        self._model, self._memories = model, memories
        self.steps = 0

    def best(self, tokens: list[int]) -> int:
        """The likeliest token after the prompt and `tokens`, of which there are more at every call."""
        logits = None
        for token in tokens[self.steps :]:
            one = torch.tensor([[token]], device=self._model.embedding.device)
            logits, self._memories = advance(self._model, one, self._memories)
        assert logits is not None
        self.steps = len(tokens)
        return int(logits.argmax(-1))


def follow(
    tree: Tree, tokens: list[int], best: list[int], sure: list[bool], plain: Callable[[list[int]], int]
) -> tuple[int, list[int]]:
    """Walk from node 0 along the verifier's choices as far as they were drafted.

    Args:
        tree: with one root.
        tokens, best, sure: of one sequence: of the nodes, and what the verifier says after them.
        plain: (tokens of the path below node 0) -> the choice of plain decoding, where `best` is not sure.

    Returns:
        the last node of the accepted path, and the tokens that are certain now: those of the path below node 0, and
        the verifier's choice after it.
    """
    children = tree.children
    node, found = 0, []
    while True:
        choice = best[node] if sure[node] else plain(found)
        found.append(choice)
        below = next((child for child in children[node] if tokens[child] == choice), None)
        if below is None:
            return node, found
        node = below
