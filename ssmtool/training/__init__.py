"""Training: regularisers and in-training truncation for any PyTorch loop; tasks, recipes, the accuracy of a checkpoint.

The names below are imported when they are first used: importing this package alone is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssmtool.training.hankel import HankelRegularizer

__all__ = ["HankelRegularizer"]

_HOMES = {"HankelRegularizer": "hankel"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
