"""Penalties of many systems, a few of them evaluated anew per step: the others keep the gradient they had.

Poles and weights move little in a step, so a gradient of a few steps ago is close to today's. Unlike a random subset
scaled up, this neither leaves most parameters without a gradient in most steps (Adam divides by the root mean square,
and pulls less) nor hits the others with a multiple (which clipping of gradients then cuts).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields

from torch import Tensor

from ssmtool.lti.hankel_penalty import Penalised, attached


class GradientMemory:
    """What was last known of each system, and whose turn it is.

    Args:
        period: steps within which every system is evaluated once, evenly spread; 1 evaluates all in every step.
    """

    def __init__(self, period: int) -> None:
        self.period = period
        self.known: dict[str, Penalised] = {}

    def penalty(
        self,
        key: str,
        tensors: tuple[Tensor, Tensor, Tensor],
        function: Callable[[Tensor, Tensor, Tensor], Penalised],
        turn: int,
    ) -> Tensor:
        """(S,) values of a batch of systems, differentiable.

        Args:
            key: names the batch; a new one, or one with other shapes, is evaluated whole.
            tensors: a (S, n), B (S, n, m), C (S, p, n).
            function: evaluates systems.
            turn: systems turn, turn + period, ... are evaluated anew.
        """
        a, B, C = tensors
        known = self.known.get(key)
        if self.period == 1:
            return attached(a, B, C, function(a, B, C))
        if known is None or (known.B.shape, known.C.shape) != (B.shape, C.shape):
            known = self.known[key] = function(a, B, C)
        else:
            rows = slice(turn % self.period, None, self.period)
            if len(range(len(a))[rows]):
                fresh = function(a[rows], B[rows], C[rows])
                # copies: graphs that have not gone backward yet may hold the old ones
                known = self.known[key] = Penalised(*(x.clone() for x in _parts(known)))
                for old, new in zip(_parts(known), _parts(fresh), strict=True):
                    old[rows] = new
        return attached(a, B, C, known)

    def state_dict(self) -> dict[str, list[Tensor]]:
        """Batch -> its values and gradients."""
        return {key: _parts(known) for key, known in self.known.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[Tensor]]) -> None:
        """Remember what `state_dict` returned."""
        self.known = {key: Penalised(*(x.clone() for x in parts)) for key, parts in state.items()}


def _parts(known: Penalised) -> list[Tensor]:
    return [getattr(known, field.name) for field in fields(known)]
