"""Modal l1 regularisation, for comparison: it pushes eigenvalues towards zero, so that modes decay and can be dropped.

Source: Forgione, Mejari & Piga, CDC 2024, arXiv:2403.14833, equation of section "Modal l1-regularization": the sum over
layers and modes of |lambda|. Unlike Hankel singular values it does not see how a mode is driven or read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssmtool.errors import UsageError
from ssmtool.pipeline.live_layers import LiveLayers, scalar_dtype, tensors_of


class ModalL1:
    """weight times the sum over layers, systems and stored slots of |lambda|."""

    def __init__(
        self,
        model: nn.Module,
        weight: float = 1e-4,
        *,
        layers: Iterable[str] | None = None,
        config: Mapping[str, Any] | None = None,
        family: str | None = None,
    ) -> None:
        """Find the model's layers.

        Args:
            model: any module whose tensors have the names of a known family, under any prefix.
            weight: factor on the penalty, >= 0.
            layers, config, family: as in `LiveLayers`.

        Raises:
            FamilyError: no known layer, or inconsistent tensors.
            UsageError: a negative weight, or a selected layer that depends on its input.
        """
        if not weight >= 0:
            raise UsageError(f"weight {weight:g} of the regulariser is below 0")
        self.weight = weight
        self.live = LiveLayers(model, layers=layers, config=config, family=family)

    def __call__(self) -> Tensor:
        """The weighted penalty, a scalar in the parameters' dtype (float32 at least), with gradients."""
        parts = [self._penalty(tensors_of(system)[0]) for _, system in self.live.systems()]
        total = torch.stack([part.to(parts[0].device) for part in parts]).sum()
        return (self.weight * total).to(scalar_dtype(self.live.model))

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """The unweighted penalty of every layer; for logs."""
        return {layer.name: float(self._penalty(tensors_of(system)[0])) for layer, system in self.live.systems()}

    @staticmethod
    def _penalty(a: Tensor) -> Tensor:
        return torch.exp(a.real).sum()
