"""Changed systems put back into a living model: parameters under the family's own names, in place, of any size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ssmtool.errors import FamilyError
from ssmtool.families._contract import Layer
from ssmtool.lti.systems import DiagonalSystem
from ssmtool.pipeline.live_layers import live_tensors
from ssmtool.pipeline.model import family_of


def arrays_of(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """A layer's wide tensors by role as arrays."""
    return {role: x.detach().cpu().resolve_conj().numpy() for role, x in tensors.items()}


def layer_tensors(
    layer: Layer, arrays: dict[str, np.ndarray], system: DiagonalSystem, present: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Full tensor name -> new value, in the dtype and on the device of the old one, for what changes.

    Args:
        arrays: the layer's present tensors by role.
        system: what the layer is to compute, NumPy.
        present: every tensor of the model by name.

    Raises:
        FamilyError: the family cannot store the system, or only in tensors that the model does not have.
    """
    new = {}
    for key, array in family_of(layer).from_system(layer, arrays, system).items():
        name = layer.tensors.get(key, key)
        old = present.get(name)
        if array is None or old is None:
            raise FamilyError(
                f"a changed layer of this layout {'lacks' if array is None else 'needs'} the tensor {name}, which the "
                f"model {'has' if array is None else 'lacks'}",
                where=layer.name,
                remedy="Write a checkpoint (ssmtool compress) and build the model for it",
            )
        value = torch.from_numpy(np.array(array)).to(old.device, old.dtype)
        if not torch.isfinite(torch.view_as_real(value) if value.is_complex() else value).all():
            raise FamilyError(f"new values of {name} do not fit into {old.dtype}", where=layer.name)
        if value.shape != old.shape or not torch.equal(value, old):
            new[name] = value
    return new


@torch.no_grad()
def replace_tensors(
    model: nn.Module, new: Mapping[str, Tensor], optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Give tensors new values, wherever the model and the optimizer's parameter groups hold them.

    A tensor whose shape changes becomes a new parameter. The optimizer's state of every tensor in `new` is dropped:
    moments were gathered in other coordinates.
    """
    present = live_tensors(model)
    renewed: dict[int, Tensor] = {}
    for name, value in new.items():
        old = present[name]
        if optimizer is not None:
            optimizer.state.pop(old, None)
        if value.shape == old.shape:
            old.copy_(value)
        elif isinstance(old, nn.Parameter):
            renewed[id(old)] = nn.Parameter(value.clone(), requires_grad=old.requires_grad)
        else:
            renewed[id(old)] = value.clone()
    if not renewed:
        return
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for key, held in table.items():
                if id(held) in renewed:
                    table[key] = renewed[id(held)]  # type: ignore[assignment]
    for group in optimizer.param_groups if optimizer is not None else ():
        group["params"] = [renewed.get(id(p), p) for p in group["params"]]
