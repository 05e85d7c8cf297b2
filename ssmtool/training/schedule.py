"""When layers are truncated during training, and how far: ``energy:0.99@0.1,energy:0.95@0.3`` or ``order:16@0.1``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ssmtool.errors import UsageError


@dataclass(frozen=True)
class Truncation:
    """One truncation of all layers.

    Attributes:
        kind: "energy" or "order".
        target: share in (0, 1] of the sum of the Hankel singular values that every system keeps; or the largest order
            a real system may have afterwards.
        after: share of the training after which it happens, in (0, 1): at the end of the first epoch that is past it.
    """

    kind: str
    target: float
    after: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.target:g}@{self.after!r}"

    def epoch(self, epochs: int) -> int:
        """The epoch it follows, from 1."""
        return min(max(math.ceil(self.after * epochs - 1e-9), 1), epochs)

    @property
    def arguments(self) -> dict[str, Any]:
        """What `ssmtool.training.truncate` is asked for."""
        return {"energy": self.target} if self.kind == "energy" else {"max_orders": int(self.target)}


def parse_schedule(text: str) -> tuple[Truncation, ...]:
    """The truncations `text` names in order of time; none for ``none``.

    Raises:
        UsageError: another form, or a number out of range.
    """
    if text == "none":
        return ()
    found = [_parse(item) for item in text.split(",")]
    return tuple(sorted(found, key=lambda truncation: truncation.after))


def _parse(item: str) -> Truncation:
    kind, _, rest = item.partition(":")
    target, _, after = rest.partition("@")
    try:
        found = Truncation(kind, float(target), float(after))
    except ValueError:
        found = Truncation("", 0.0, 0.0)
    fits = {"energy": 0 < found.target <= 1, "order": found.target >= 1 and found.target == int(found.target)}
    if not fits.get(found.kind, False) or not 0 < found.after < 1:
        raise UsageError(
            f"the truncation {item!r} is neither energy:SHARE@TIME nor order:N@TIME",
            remedy="TIME is a share of the training: energy:0.99@0.1 keeps 99 % of the energy after its first tenth",
        )
    return found
