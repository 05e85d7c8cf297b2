"""Reference models from tensors: the layout and all sizes are read from names and shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import numpy as np
import torch

from ssmtool import plugins
from ssmtool.errors import FamilyError, MismatchError
from ssmtool.reference.layouts._contract import ReferenceModel, Sizes

PACKAGE = "ssmtool.reference.layouts"


def layouts() -> tuple[str, ...]:
    """Names of the layouts a reference model can have."""
    return plugins.names(PACKAGE)


def create(layout: str, sizes: Sizes, *, seed: int, dropout: float = 0.0) -> ReferenceModel:
    """A freshly initialised float32 model; torch's global generator is left as it was.

    Args:
        layout: one of `layouts()`.
        sizes: widths and stored slots.
        seed: of the initialisation.
        dropout: probability, active in training mode only.

    Raises:
        KeyError: no such layout.
    """
    module = plugins.load(PACKAGE, layout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return module.create(sizes, dropout)


def build(tensors: Mapping[str, np.ndarray | torch.Tensor], *, where: str = "") -> ReferenceModel:
    """The reference model these tensors are the weights of, in evaluation mode, float64 or float32 as given.

    Layers may store any number of state slots, each its own: a reduced checkpoint needs no configuration.

    Args:
        tensors: name -> real array, exactly those of one model.
        where: file named in errors.

    Raises:
        FamilyError: the names are of no reference layout, or a tensor is missing.
        MismatchError: tensors left over, or shapes that contradict each other.
    """
    state = {name: torch.as_tensor(array) for name, array in tensors.items()}
    layout = _layout_of(state, where)
    sizes = _sizes_of(layout, state, where)
    model = create(layout.__name__.rpartition(".")[2], sizes, seed=0)
    _compare(model.state_dict(), state, where)
    double = any(tensor.dtype == torch.float64 for tensor in state.values())
    model = model.to(torch.float64 if double else torch.float32)
    model.load_state_dict(state)
    return model.eval()


def _layout_of(state: Mapping[str, torch.Tensor], where: str) -> ModuleType:
    for name in layouts():
        module = plugins.load(PACKAGE, name)
        if module.matches(state):
            return module
    raise FamilyError(
        f"the tensors are not of a reference model ({', '.join(layouts())})",
        where=where,
        remedy="Tasks are measured on reference models only; fixtures/ holds one of each",
    )


def _sizes_of(layout: ModuleType, state: Mapping[str, torch.Tensor], where: str) -> Sizes:
    try:
        sizes = layout.sizes({name: tuple(tensor.shape) for name, tensor in state.items()})
    except KeyError as missing:
        raise FamilyError(f"tensor {missing.args[0]} is missing", where=where) from None
    except (ValueError, IndexError):
        raise MismatchError("a tensor that fixes the model's sizes has the wrong number of axes", where=where) from None
    if not sizes.slots:
        raise FamilyError("no layer 0", where=where)
    if min(sizes.inputs, sizes.width, sizes.classes, *sizes.slots) < 1:
        raise MismatchError("a tensor that fixes the model's sizes has an axis of length 0", where=where)
    return sizes


def _compare(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], where: str) -> None:
    """Raise on the first difference in names or shapes, with numbers; torch's own message spans many lines."""
    if missing := sorted(expected.keys() - found.keys()):
        raise FamilyError(f"tensor {missing[0]} is missing ({len(missing)} in all)", where=where)
    if extra := sorted(found.keys() - expected.keys()):
        raise MismatchError(f"tensor {extra[0]} has no place in the model ({len(extra)} in all)", where=where)
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise MismatchError(
                f"tensor {name} has shape {tuple(found[name].shape)}, the others call for {tuple(tensor.shape)}",
                where=where,
            )
        if found[name].is_complex():
            raise MismatchError(f"tensor {name} is complex, the layout stores real numbers only", where=where)
