"""The ways to reduce a selective layer, by name. Importing them costs nothing."""

from __future__ import annotations

from enum import Enum


class Export(str, Enum):
    """Form of the reduced checkpoint."""

    stock = "stock"
    projected = "projected"


class Select(str, Enum):
    """How states are chosen. All but `elimination` are baselines from the literature, or controls."""

    elimination = "elimination"
    ghost = "ghost"
    magnitude = "magnitude"
    taylor = "taylor"
    random = "random"
