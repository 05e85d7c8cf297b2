"""When layers are truncated during training: ``energy:0.99@0.1,energy:0.95@0.3``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ssmtool.errors import UsageError


@dataclass(frozen=True)
class Truncation:
    """One truncation.

    Attributes:
        energy: share of the sum of the Hankel singular values that every system keeps, in (0, 1).
        after: share of the training after which it happens, in (0, 1): at the end of the first epoch that is
            past it.
    """

    energy: float
    after: float

    def __str__(self) -> str:
        return f"energy:{self.energy!r}@{self.after!r}"

    def epoch(self, epochs: int) -> int:
        """The epoch it follows, from 1."""
        return min(max(math.ceil(self.after * epochs - 1e-9), 1), epochs)


def parse_schedule(text: str) -> tuple[Truncation, ...]:
    """The truncations `text` names in order of time; none for ``none``.

    Raises:
        UsageError: another form, or a share outside (0, 1).
    """
    if text == "none":
        return ()
    found = []
    for item in text.split(","):
        kind, _, rest = item.partition(":")
        energy, at, after = rest.partition("@")
        try:
            shares = float(energy), float(after)
        except ValueError:
            shares = ()
        if kind != "energy" or not at or not shares or not all(0 < share < 1 for share in shares):
            raise UsageError(
                f"the truncation {item!r} is not energy:SHARE@TIME",
                remedy="SHARE of the energy is kept after TIME, a share of the training: energy:0.99@0.1",
            )
        found.append(Truncation(*shares))
    return tuple(sorted(found, key=lambda truncation: truncation.after))
