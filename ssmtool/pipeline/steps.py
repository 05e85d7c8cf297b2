"""How long work on tokens and layers tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Step = Callable[[str, int, int, str], None]
"""Called with (label, done, total, unit)."""


def no_step(label: str, done: int, total: int, unit: str) -> None:
    """Progress nobody watches."""
