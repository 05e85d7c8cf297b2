"""What every layer of a live model meets on calibration data: its inputs, and how much the model minds its errors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssmtool.errors import CalibrationError, FamilyError
from ssmtool.families._contract import Layer
from ssmtool.pipeline.blocks import captured
from ssmtool.pipeline.live import Place, described, outputs_of, stream
from ssmtool.reductions._contract import Seen

SEQUENCES = 128  # as many as a covariance of some hundred states needs, and as fit into memory
PROBES = 4  # random directions of the model's output per sequence
_SMALLEST = 1e-12  # variance of an input, relative to its square, below which it is constant


def seen_by(model: nn.Module, place: Place, data: Tensor, batch: int = 32) -> Seen:
    """The inputs of one layer on (at most SEQUENCES of) the data, and the weight of its outputs.

    The weight is E[J^T J], J the Jacobian of the model's outputs with respect to the layer's, from random directions;
    for layers of systems with one output each it would weight every state alike, and there is none.

    Args:
        model: in evaluation mode.
        place: of the layer.
        data: (K, L, ...) inputs of the model.

    Raises:
        FamilyError: the module that holds the layer is not called, or not with the layer's inputs.
        CalibrationError: inputs without variance.
    """
    layer, data = place.layer, data[:SEQUENCES]
    if not place.inner:
        raise FamilyError(
            "the module that holds this layer is never called itself, only methods of it: its inputs cannot be seen",
            where=layer.name,
            remedy="Call the module, or choose a method that needs no --calibrate",
        )
    seen = captured(model, place.inner, data, batch)
    inputs, width = _first(*seen.at(slice(None))), layer.systems * layer.inputs
    if inputs.ndim != 3 or width not in inputs.shape[1:]:
        raise FamilyError(
            f"the module {place.inner} is called with {tuple(inputs.shape)}, not with {width} channels over time",
            where=layer.name,
            remedy="Calibrated methods need a module that is called with the layer's own inputs",
        )
    time = _time_axis(model, place, data, inputs, width)
    u = (inputs if time == 1 else inputs.transpose(1, 2)).double()  # (K, L, width)
    if bool((u.var(dim=(0, 1)) <= _SMALLEST * u.square().mean()).all()):
        raise CalibrationError(
            "the calibration inputs have zero variance where they reach this layer",
            where=layer.name,
            remedy="Bring inputs like those the model is used on",
        )
    sequences, length = u.shape[:2]
    shaped = u.reshape(sequences, length, layer.systems, layer.inputs).transpose(1, 2)
    return Seen(shaped.contiguous().cpu().numpy(), _weight(model, place, layer, data, time, batch))


def _first(args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    found = stream(args) if stream(args) is not None else stream(tuple(named.values()))
    assert found is not None
    return found


def _time_axis(model: nn.Module, place: Place, data: Tensor, inputs: Tensor, width: int) -> int:
    """The axis that is not as long as there are channels: 1 or 2; if both are, the one that gets shorter with the data.

    Raises:
        FamilyError: the model runs on no other length, or neither axis is the only one that changes.
    """
    others = [axis for axis in (1, 2) if inputs.shape[axis] != width]
    if not others:
        try:
            shorter = captured(model, place.inner, data[:1, :-1], 1)
        except Exception as error:
            raise FamilyError(
                f"which axis of its input is time cannot be told: the model has {width} channels and steps, and does "
                f"not run on fewer steps ({described(error)})",
                where=place.layer.name,
                remedy="Bring calibration inputs of another length",
            ) from error
        less = _first(*shorter.at(slice(None)))
        others = [axis for axis in (1, 2) if less.ndim == inputs.ndim and less.shape[axis] != inputs.shape[axis]]
    if len(others) != 1:
        raise FamilyError("which axis of its input is time cannot be told", where=place.layer.name)
    return others[0]


def _weight(model: nn.Module, place: Place, layer: Layer, data: Tensor, time: int, batch: int):
    """(1, p, p) float64 for one system with several outputs, else None."""
    if layer.systems != 1 or layer.outputs < 2:
        return None
    generator = torch.Generator(device="cpu").manual_seed(0)
    total = torch.zeros((layer.outputs, layer.outputs), dtype=torch.float64)
    caught: list[Tensor] = []

    def hook(_: nn.Module, args: Any, out: Any) -> None:
        found = stream(out)
        assert found is not None
        caught.append(found)

    handle = model.get_submodule(place.inner).register_forward_hook(hook)
    try:
        with torch.enable_grad():
            for part in data.split(batch):
                caught.clear()
                fresh = part.clone().requires_grad_() if part.is_floating_point() else part
                out = outputs_of(model(fresh))
                if caught[0].ndim != 3 or caught[0].shape[3 - time] != layer.outputs or not caught[0].requires_grad:
                    return None
                for _ in range(PROBES):
                    direction = torch.randn(out.shape, generator=generator).to(out)
                    (g,) = torch.autograd.grad((out * direction).sum(), caught[0], retain_graph=True)
                    g = (g if time == 1 else g.transpose(1, 2)).reshape(-1, layer.outputs).double().cpu()
                    total += g.T @ g
    finally:
        handle.remove()
    scale = total.trace() / layer.outputs
    return (total / scale)[None].numpy() if bool(scale > 0) else None
