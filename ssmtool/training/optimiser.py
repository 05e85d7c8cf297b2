"""The optimiser of every recipe: AdamW with groups, a warm-up and a half cosine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ssmtool.reference.layouts._contract import ReferenceModel
from ssmtool.training.recipe import Recipe


def build_optimiser(model: ReferenceModel, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with groups for the state-space parameters; vectors (biases, norms) are not decayed either.

    Each group keeps its peak rate as ``peak``, which `set_rates` scales.
    """
    residues = [parameter for layer in model.state_spaces() for parameter in layer.residue_parameters()]
    linear = {id(parameter) for parameter in residues}
    state = [p for layer in model.state_spaces() for p in layer.state_parameters() if id(p) not in linear]
    taken = linear | {id(parameter) for parameter in state}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    groups = (
        (state, recipe.state_rate, 0.0),
        (residues, recipe.state_rate, recipe.residue_decay),
        ([p for p in rest if p.ndim > 1], recipe.rate, recipe.decay),
        ([p for p in rest if p.ndim == 1], recipe.rate, 0.0),
    )
    return torch.optim.AdamW(
        [{"params": params, "lr": rate, "peak": rate, "weight_decay": decay} for params, rate, decay in groups],
        lr=recipe.rate,
    )


def restore_optimiser(optimiser: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Put back what `state_dict` gave of an optimiser of the same parameters; rates and other settings are its own.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, RuntimeError: it is of another one.
    """
    found, parameters = saved["state"], [p for group in optimiser.param_groups for p in group["params"]]
    state = {}
    for number, parameter in enumerate(parameters):
        if (entry := found.get(number)) is None:
            continue
        moments = {name: entry[name] for name in ("exp_avg", "exp_avg_sq")}
        step = entry["step"].reshape(())
        if any(x.shape != parameter.shape or x.dtype != parameter.dtype for x in moments.values()) or not step >= 0:
            raise ValueError(f"moments of parameter {number}")
        state[number] = {"step": step, **moments}
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})


def set_rates(optimiser: torch.optim.Optimizer, step: int, steps: int) -> None:
    """The learning rates of step `step` of `steps`, from 0."""
    factor = warm_cosine(step, steps)
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor


def warm_cosine(step: int, steps: int) -> float:
    """Factor on the learning rate: linear over the first twentieth, then a half cosine to zero."""
    warm = max(steps // 20, 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))
