"""Which tokens a draft proposes: a tree of fixed shape, or one grown where the drafter is sure of itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ssmtool.errors import UsageError

WIDEST, DEEPEST, LARGEST = 64, 32, 256  # candidates, levels and nodes of a tree, at most
NODES = 12  # of an adaptive tree, if nothing else is asked for
EXPANDED = 4  # nodes of a level that an adaptive tree expands, at most


@dataclass(frozen=True)
class Plan:
    """The shape of the drafted trees.

    Attributes:
        width: fixed trees: candidates for the first token, each continued by the drafter's likeliest tokens, so that
            a tree has `width` branches; adaptive ones: nodes of a level that are expanded, at most.
        depth: tokens of a branch; adaptive trees: at most.
        nodes: drafted tokens of a tree; adaptive trees: at most.
        adaptive: grown by the drafter's probabilities.
    """

    width: int
    depth: int
    nodes: int
    adaptive: bool = False

    @classmethod
    def parse(cls, text: str) -> Plan:
        """`BxD`, `adaptive` or `adaptive:NODES`. Raises UsageError."""
        fixed = re.fullmatch(r"(\d+)x(\d+)", text.strip())
        grown = re.fullmatch(r"adaptive(?::(\d+))?", text.strip())
        if fixed:
            width, depth = int(fixed[1]), int(fixed[2])
            if 1 <= width <= WIDEST and 1 <= depth <= DEEPEST and width * depth <= LARGEST:
                return cls(width, depth, width * depth)
        elif grown:
            nodes = NODES if grown[1] is None else int(grown[1])
            if 1 <= nodes <= LARGEST:
                return cls(min(EXPANDED, nodes), min(DEEPEST, nodes), nodes, True)
        raise UsageError(
            f"--tree {text} is no tree",
            remedy=f"Give BRANCHESxDEPTH such as 4x3 (at most {WIDEST} branches, {DEEPEST} levels, {LARGEST} tokens), "
            "adaptive, or adaptive:NODES",
        )

    def __str__(self) -> str:
        if not self.adaptive:
            return f"{self.width}x{self.depth}"
        return "adaptive" if self.nodes == NODES else f"adaptive:{self.nodes}"


class Confidence:
    """How often what a drafter expects comes true: accepted tokens over those its probabilities promised, so far.

    A few tokens of prior trust keep the first rounds from deciding too much.
    """

    TRUST = 4.0

    def __init__(self) -> None:
        self._accepted = self._promised = self.TRUST

    @property
    def factor(self) -> float:
        """Accepted over promised, at most 1."""
        return min(1.0, self._accepted / self._promised)

    def observe(self, accepted: float, promised: float) -> None:
        """Tokens accepted in a round, and the sum of the nodes' probabilities; means over the batch."""
        self._accepted += accepted
        self._promised += promised
