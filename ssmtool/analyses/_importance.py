"""Which tokens a selective layer takes in: the norm of the step dt_t over channels.

Source: Vo et al., ICLR 2025, section 5 (importance scores; there a learned score of the step), docs/diagnose.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MANY = 8  # tokens that are listed
_BYTES = 256  # tokens below it are shown as the bytes they are, if there are no others


@dataclass(frozen=True)
class Importance:
    """How unevenly |dt_t| is spread over tokens.

    Attributes:
        mean, deviation: of |dt_t| over tokens.
        top_tenth: share of the sum that the tenth of each sequence's tokens with the largest |dt_t| has; 0.1 if all are
            alike.
        tokens: (token, mean |dt| at it) of the tokens with the largest mean, among those seen at least ten times.
    """

    mean: float
    deviation: float
    top_tenth: float
    tokens: tuple[tuple[str, float], ...]


class ImportanceMeter:
    """Averages |dt_t| by token."""

    def __init__(self) -> None:
        self._sum: dict[int, float] = {}
        self._count: dict[int, int] = {}
        self._total = self._square = self._top = 0.0
        self._tokens = self._sequences = 0

    @torch.no_grad()
    def add(self, tokens: Tensor, dt: Tensor) -> None:
        """Tokens (b, L) in the order of the scan, and steps (b, L, E) or (b, L, H)."""
        norm = dt.double().norm(dim=-1)
        self._total += norm.sum().item()
        self._square += norm.square().sum().item()
        self._tokens += norm.numel()
        tenth = max(1, norm.shape[1] // 10)
        self._top += (norm.topk(tenth, dim=1).values.sum(1) / norm.sum(1)).sum().item()
        self._sequences += norm.shape[0]
        kinds, place = tokens.to(norm.device).unique(return_inverse=True)
        sums = torch.zeros(len(kinds), dtype=torch.float64, device=norm.device)
        sums.scatter_add_(0, place.flatten(), norm.flatten())
        counts = torch.bincount(place.flatten(), minlength=len(kinds))
        for kind, part, count in zip(kinds.tolist(), sums.tolist(), counts.tolist(), strict=True):
            self._sum[kind] = self._sum.get(kind, 0.0) + part
            self._count[kind] = self._count.get(kind, 0) + count

    def result(self) -> Importance:
        """What was averaged."""
        mean = self._total / self._tokens
        often = [kind for kind, count in self._count.items() if count >= 10]
        best = sorted(often, key=lambda kind: (-self._sum[kind] / self._count[kind], kind))[:MANY]
        bytewise = max(self._count) < _BYTES
        return Importance(
            mean,
            float(np.sqrt(max(self._square / self._tokens - mean**2, 0.0))),
            self._top / self._sequences,
            tuple((_word(kind, bytewise), self._sum[kind] / self._count[kind]) for kind in best),
        )


def _word(token: int, bytewise: bool) -> str:
    """A token as text: the byte's character, or its number."""
    if not bytewise:
        return str(token)
    character = chr(token)
    return (
        repr(character)[1:-1]
        if token < 127 and not character.isspace()
        else {10: "\\n", 32: "␣", 9: "\\t"}.get(token, f"\\x{token:02x}")
    )
