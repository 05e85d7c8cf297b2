"""How many cores this process may use for one layer."""

from __future__ import annotations

import os

_limit: int | None = None


def cores() -> int:
    """Threads that `factors.parallel` runs batches on; no result depends on it."""
    return _limit or available()


def available() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit(count: int) -> None:
    """Use `count` cores from now on, in this process: the others are for processes beside it."""
    global _limit
    _limit = max(1, count)
