"""Models that run: modules built from tensors, the state-space layers in them, and the blocks that hold these.

A checkpoint has names and numbers; how a block goes on from its state-space layer is in the code that made it. Here
that code runs: the project's reference models, or a user's `build(state_dict) -> nn.Module`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ssmtool import plugins
from ssmtool.checkpoint import TensorInfo
from ssmtool.errors import CalibrationError, FamilyError, SsmtoolError, UsageError
from ssmtool.families._contract import Layer
from ssmtool.pipeline.live_layers import dtype_name, live_tensors
from ssmtool.pipeline.model import FAMILIES, find_layers
from ssmtool.reference.model import build as build_reference

Build = Callable[[dict[str, Tensor]], nn.Module]
_SINGLE = {torch.float64: torch.float32, torch.complex128: torch.complex64}


@dataclass(frozen=True)
class Place:
    """Where a state-space layer sits in a module.

    Attributes:
        layer: as found in the module's state_dict; its tensors are the module's own names.
        inner: name of the innermost module that holds all its tensors: called with the layer's own input, if it is
            called at all; "" where only methods of it are.
        block: name of the outermost one that holds no other state-space layer.
    """

    layer: Layer
    inner: str
    block: str


def load_build(code: str) -> Build:
    """The function named by FILE.py:NAME, which makes a model of a state_dict. Runs that file.

    Raises:
        UsageError: no such file or function, or the file fails when it is run.
    """
    file, _, name = code.rpartition(":")
    path = Path(file)
    if not file or not name.isidentifier() or path.suffix != ".py":
        raise UsageError(f"--model-code {code!r} is not FILE.py:FUNCTION", remedy="For example model.py:build")
    if not path.is_file():
        raise UsageError("there is no such file", where=str(path))
    spec = importlib.util.spec_from_file_location(f"ssmtool_model_code_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # what the file imports usually lies beside it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"running it failed: {described(error)}", where=str(path)) from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
    found = getattr(module, name, None)
    if not callable(found):
        raise UsageError(f"it has no function {name!r}", where=str(path), remedy="It takes a state_dict, gives a model")
    return cast(Build, found)


def assemble(tensors: Mapping[str, np.ndarray | Tensor], build: Build | None, where: str) -> nn.Module:
    """A model in evaluation mode with these tensors, by the user's function or as a reference model.

    Args:
        tensors: name -> values, as the checkpoint has them.
        build: the user's function; None for reference models.
        where: file named in errors.

    Raises:
        UsageError: the user's function fails or gives no module.
        FamilyError, MismatchError: no function, and the tensors are of no reference model.
    """
    state = {
        name: torch.as_tensor(np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x)
        for name, x in tensors.items()
    }
    if build is None:
        try:
            return build_reference(state, where=where).float()
        except FamilyError as error:
            raise FamilyError(
                f"how to run this model is not known: {error.what}",
                where=where,
                remedy="Bring its code: --model-code FILE.py:build, where build(state_dict) returns the model",
            ) from error
    try:
        model = build({name: x.to(_SINGLE.get(x.dtype, x.dtype)) for name, x in state.items()})
    except Exception as error:
        raise UsageError(
            f"the model's code failed: {described(error)}",
            where=where,
            remedy="build(state_dict) has to read sizes from the shapes, so that it can make the reduced model too",
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"the model's code returned {type(model).__name__}, not a torch.nn.Module", where=where)
    return model.eval()


def live_layers(module: nn.Module, config: Mapping[str, Any] | None = None) -> tuple[Layer, ...]:
    """The linear time-invariant layers of a module, found in the names and shapes of its state_dict.

    Raises:
        FamilyError: two families claim the same tensor, or none finds such a layer.
    """
    tensors = live_tensors(module)
    infos = {name: TensorInfo(tuple(x.shape), dtype_name(x)) for name, x in tensors.items()}
    found = find_layers(infos, None if config is None else dict(config), plugins.names(FAMILIES))
    linear = tuple(layer for layer in found if layer.lti)
    if not linear:
        raise FamilyError(
            f"no linear time-invariant state-space layer among the {len(tensors)} tensors of {type(module).__name__}",
            remedy="Its tensors need the names of a known family (docs/), or those of the neutral format",
        )
    return linear


def tensors_of(module: nn.Module, layer: Layer) -> dict[str, Tensor]:
    """The layer's live tensors by role, parameters and buffers alike."""
    held = live_tensors(module)
    return {role: held[name] for role, name in layer.tensors.items()}


@torch.no_grad()
def places(module: nn.Module, layers: tuple[Layer, ...], inputs: Tensor) -> tuple[Place, ...]:
    """Where the layers sit, in the order in which they are called, by running the module once.

    Args:
        module: in evaluation mode.
        layers: from `live_layers`.
        inputs: a few sequences, (K, L, ...).

    Raises:
        CalibrationError: the module does not run on the inputs.
        FamilyError: no module that is called and returns a tensor holds a layer, or several layers share the only one.
    """
    called: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any, Any], None]:
        def hook(_: nn.Module, args: Any, named: Any, out: Any) -> None:
            given = (*args, *named.values())
            if name not in called and stream(given) is not None and stream(out) is not None:
                called.append(name)

        return hook

    names = [name for name, _ in module.named_modules() if name]
    handles = [module.get_submodule(name).register_forward_hook(watch(name), with_kwargs=True) for name in names]
    try:
        module(inputs)
    except SsmtoolError:
        raise
    except Exception as error:
        raise CalibrationError(
            f"the model does not run on calibration inputs of shape {tuple(inputs.shape)}: {described(error)}",
            remedy="Bring inputs as the model takes them: (sequences, length, channels), or integers for tokens",
        ) from error
    finally:
        for handle in handles:
            handle.remove()

    def holds(name: str, layer: Layer) -> bool:
        return all(tensor.startswith(f"{name}.") for tensor in layer.tensors.values())

    found = []
    for layer in layers:
        around = sorted((name for name in called if holds(name, layer)), key=len)
        alone = [name for name in around if sum(holds(name, other) for other in layers) == 1]
        if not alone:
            raise FamilyError(
                "no module of its own that is called with a tensor and returns one holds this layer",
                where=layer.name,
                remedy="Call the layer as a module (not its methods), one module per state-space layer",
            )
        own = max((name for name in names if holds(name, layer)), key=len)
        found.append(Place(layer, own if own in called else "", alone[0]))
    return tuple(sorted(found, key=lambda place: called.index(place.inner or place.block)))


def described(error: Exception) -> str:
    """Kind and first line of what went wrong in somebody else's code."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def stream(value: Any) -> Tensor | None:
    """The tensor that flows: the value itself, or the first tensor of a tuple; None if there is none."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, tuple | list):
        return next((found for part in value if (found := stream(part)) is not None), None)
    return None


def outputs_of(value: Any) -> Tensor:
    """What a whole model returns: a tensor, the first of a tuple, or the field `logits`. Raises FamilyError."""
    found = stream(getattr(value, "logits", value))
    if found is None:
        raise FamilyError(f"the model returns {type(value).__name__}, in which there is no tensor of real numbers")
    return found
