"""Training: regularisers and in-training truncation for any PyTorch loop; tasks, recipes, the accuracy of a checkpoint.

The names below are imported when they are first used: importing this package alone is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssmtool.training.hankel import HankelRegularizer
    from ssmtool.training.masks import mask_modes
    from ssmtool.training.modal import ModalL1
    from ssmtool.training.truncation import Schedule, truncate

__all__ = ["HankelRegularizer", "ModalL1", "Schedule", "mask_modes", "truncate"]

_HOMES = {
    "HankelRegularizer": "hankel",
    "ModalL1": "modal",
    "Schedule": "truncation",
    "mask_modes": "masks",
    "truncate": "truncation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
