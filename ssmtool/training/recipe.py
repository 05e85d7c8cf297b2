"""The recipes: everything that decides a training run but the seed. Those of the digits made fixtures/."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ssmtool.training.tasks._contract import Task


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run but the seed.

    Attributes:
        layout: tensor names and layer type, one of ssmtool.reference.model.layouts().
        task: name and options, as open_task reads them.
        width: H, channels.
        depth: layers.
        slots: stored complex state slots per system; the real order is twice that.
        epochs: passes over the training part.
        batch: sequences per step.
        rate: peak learning rate of the ordinary weights (AdamW, one warm-up epoch in twenty, cosine to zero).
        state_rate: peak learning rate of the state-space parameters.
        decay: weight decay of the ordinary weights.
        residue_decay: weight decay of the input and output weights of the modes, without which modes the task has no
            use for keep what initialisation gave them. Poles and step sizes see none: it would pull them towards a
            meaningless origin in log space.
        dropout: probability, in every block.
        strength: of the task's augmentation.
        smoothing: of the labels.
        averaging: decay per step of the running average of the weights, which is what is returned.
    """

    layout: str
    task: str = "digits"
    width: int = 64
    depth: int = 4
    slots: int = 32
    epochs: int = 150
    batch: int = 64
    rate: float = 4e-3
    state_rate: float = 2e-3
    decay: float = 0.05
    residue_decay: float = 1.0
    dropout: float = 0.05
    strength: float = 1.0
    smoothing: float = 0.05
    averaging: float = 0.99


RECIPES = {
    "s4d": Recipe("s4d"),
    "s5": Recipe("s5", width=64),
    "lru": Recipe("lru", width=48, residue_decay=0.0),
    "hankelreg": Recipe("hankelreg", width=48, residue_decay=0.0),
}


def recipe_for(layout: str, task: Task, **changes: Any) -> Recipe:
    """The recipe of a layout, with what the task asks for, with `changes`; those that are None count as not given."""
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(RECIPES[layout], task=task.spec, **{**task.recipe, **given})
