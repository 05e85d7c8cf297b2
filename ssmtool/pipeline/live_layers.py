"""The state-space layers of a PyTorch module, found by names and shapes of its tensors, as differentiable systems."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssmtool import plugins
from ssmtool.checkpoint import TensorInfo
from ssmtool.errors import FamilyError, UnstableError, UsageError
from ssmtool.families._contract import Layer
from ssmtool.lti.stability import unstable_states
from ssmtool.lti.systems import DiagonalSystem
from ssmtool.pipeline.model import FAMILIES, find_layers, matching

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.complex128: "C128",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.bool: "BOOL",
}


class LiveLayers:
    """The linear time-invariant layers of a model that goes on changing.

    Tensors are looked up anew at every use, so that a model may be moved, cast or given new parameters in between.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layers: Iterable[str] | None = None,
        config: Mapping[str, Any] | None = None,
        family: str | None = None,
    ) -> None:
        """Find the layers.

        Args:
            model: any module; its parameters and buffers have the names of a known family, under any prefix.
            layers: names or globs of the layers that count; all by default.
            config: what tensors do not say (discretisation, …), as a config.json beside a checkpoint would.
            family: look for this family only.

        Raises:
            FamilyError: no known layer, or inconsistent tensors.
            UsageError: a selected layer depends on its input, or there is no such layer or family.
        """
        self.model = model
        self._patterns = None if layers is None else tuple(layers)
        self._config = None if config is None else dict(config)
        known = plugins.names(FAMILIES)
        if family is not None and family not in known:
            raise UsageError(f"there is no family {family!r}", remedy=f"Known families: {', '.join(known)}")
        self._families = known if family is None else (family,)
        self._seen: dict[str, TensorInfo] = {}
        self._layers: tuple[Layer, ...] = ()
        self.find(live_tensors(model))

    def find(self, tensors: Mapping[str, Tensor]) -> tuple[Layer, ...]:
        """The selected layers; looked for again only where names, shapes or dtypes have changed."""
        infos = {name: TensorInfo(tuple(x.shape), dtype_name(x)) for name, x in tensors.items()}
        if infos != self._seen:
            found = find_layers(infos, self._config, self._families)
            if not found:
                raise FamilyError(
                    f"no known state-space layer among the {len(infos)} tensors of {type(self.model).__name__}",
                    remedy="Give parameters the names of a known family (ssmtool inspect --help), or of the neutral "
                    "format (docs/neutral-format.md)",
                )
            chosen = matching(found, self._patterns)
            selective = [layer.name for layer in chosen if not layer.lti]
            if selective:
                raise UsageError(
                    "input-dependent layers have no Hankel singular values of their own",
                    where=", ".join(selective),
                    remedy="Put weight decay on the rows that make B and C and reduce on calibration tokens afterwards "
                    "(ssmtool compress), or leave these layers out with layers=",
                )
            self._seen, self._layers = infos, chosen
        return self._layers

    def __iter__(self) -> Iterator[tuple[Layer, dict[str, Tensor]]]:
        """Each layer with its tensors by role, float64, complex128 or int64, gradients attached."""
        tensors = live_tensors(self.model)
        for layer in self.find(tensors):
            yield layer, {role: wide(tensors[name]) for role, name in layer.tensors.items()}

    def systems(self) -> Iterator[tuple[Layer, DiagonalSystem]]:
        """Each layer as a batch of diagonal systems of tensors. Raises FamilyError, UsageError for dense ones."""
        for layer, arrays in self:
            yield layer, diagonal_system(layer, arrays)


@cache
def _family(name: str) -> ModuleType:
    return plugins.load(FAMILIES, name)


def diagonal_system(layer: Layer, arrays: Mapping[str, Any]) -> DiagonalSystem:
    """The layer as diagonal systems, of tensors or arrays as given. Raises FamilyError, UsageError for dense ones."""
    system = _family(layer.family).to_system(layer, arrays)
    if not isinstance(system, DiagonalSystem):
        raise UsageError(
            "its state matrix is diagonal plus low rank, and only diagonal ones are handled in training",
            where=layer.name,
            remedy="Train the diagonal variant (S4D), or leave the layer out with layers=",
        )
    return system


def refuse_unstable(layer: Layer, system: DiagonalSystem) -> None:
    """Raises UnstableError naming the layer if one of its systems (of arrays) has |lambda| >= 1."""
    unstable = unstable_states(system)
    if unstable.any():
        raise UnstableError(
            f"{int(unstable.sum())} states of {int((unstable > 0).sum())} of {layer.systems} systems have an "
            "eigenvalue on or outside the unit circle",
            where=layer.name,
            remedy="Use a parametrisation that keeps poles inside, or clamp them after each step",
        )


def tensors_of(system: DiagonalSystem) -> tuple[Tensor, Tensor, Tensor]:
    """a, B and C of a system that was made of tensors."""
    return cast(tuple[Tensor, Tensor, Tensor], (system.a, system.B, system.C))


def live_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Name -> parameter or buffer itself, not a copy."""
    return {name: x for name, x in model.state_dict(keep_vars=True).items() if isinstance(x, Tensor)}


def scalar_dtype(model: nn.Module) -> torch.dtype:
    """Float64 for models with parameters in double precision, float32 for all others: what a penalty is returned in."""
    double = any(p.dtype in (torch.float64, torch.complex128) for p in model.parameters())
    return torch.float64 if double else torch.float32


def dtype_name(x: Tensor) -> str:
    """The dtype in the spelling of safetensors."""
    return _DTYPES.get(x.dtype, str(x.dtype).removeprefix("torch.").upper())


def wide(x: Tensor) -> Tensor:
    """The same numbers in float64, complex128 or int64, differentiable where they are not whole."""
    if x.is_complex():
        return x.to(torch.complex128)
    return x.to(torch.float64 if x.is_floating_point() else torch.int64)
