"""Hankel singular values as a training objective: models that compress.

    regularizer = HankelRegularizer(model, weight=1e-4)
    loss = loss + regularizer()                             # in the training loop

Sources: Forgione, Mejari & Piga, CDC 2024, arXiv:2403.14833; Schwerdtner et al., NeurIPS 2025, arXiv:2510.22951.
Both differentiate a decomposition; here the gradient is closed-form (`ssmtool.lti.hankel_penalty`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssmtool.errors import SsmtoolError, UsageError
from ssmtool.families._contract import Layer
from ssmtool.lti.hankel_penalty import check_finite_and_stable, hankel_penalty
from ssmtool.lti.spectral_functions import SpectralFunction
from ssmtool.lti.systems import DiagonalSystem
from ssmtool.pipeline.live_layers import LiveLayers, scalar_dtype, tensors_of


class HankelRegularizer:
    """weight times the sum, over layers and systems, of a function of the Hankel singular values.

    A call evaluates the penalty at the model's present parameters, as a scalar tensor with gradients. Where a layer has
    many single-input systems (S4D, DSS: one per channel), `channels` evaluates that many of each layer per step, drawn
    at random and scaled so that the expected value and gradient are those of the whole; `every` evaluates at every k-th
    call only, k-fold, and returns 0 in between.

    Attributes:
        weight: may be changed between steps (a warm-up, a schedule).
        step: calls so far; with `seed` it decides which channels are drawn.
    """

    def __init__(
        self,
        model: nn.Module,
        weight: float = 1e-4,
        kind: str = "sum",
        *,
        scale: float = 1e-2,
        order: float = 0.1,
        channels: int | None = None,
        every: int = 1,
        seed: int = 0,
        layers: Iterable[str] | None = None,
        config: Mapping[str, Any] | None = None,
        family: str | None = None,
    ) -> None:
        """Find the model's layers; nothing is evaluated yet.

        Args:
            model: any module whose tensors have the names of a known family, under any prefix.
            weight: factor on the penalty, >= 0.
            kind: "sum" (nuclear norm), "log", "tail" or "entropy", see `ssmtool.lti.spectral_functions`.
            scale: of "log".
            order: of "tail": states per system that are free of charge; below 1, a share of them.
            channels: systems per layer and step; all by default.
            every: evaluate at every k-th call.
            seed: of the draw of channels.
            layers, config, family: which layers, and what their tensors do not say, see `LiveLayers`.

        Raises:
            FamilyError: no known layer, or inconsistent tensors.
            UsageError: an option out of range, or a selected layer that depends on its input.
        """
        drawn = 1 if channels is None else channels
        for name, value, least in (("weight", weight, 0), ("channels", drawn, 1), ("every", every, 1)):
            if not value >= least:
                raise UsageError(f"{name} {value:g} of the regulariser is below {least}")
        self.weight, self.kind, self.scale, self.order = weight, kind, scale, order
        self.channels, self.every, self.seed, self.step = channels, every, seed, 0
        SpectralFunction(kind, scale, order)
        self.live = LiveLayers(model, layers=layers, config=config, family=family)

    def __call__(self) -> Tensor:
        """The weighted penalty, a scalar in the parameters' dtype (float32 at least).

        Raises:
            UnstableError: a layer with an eigenvalue on or outside the unit circle.
            UsageError: parameters that are not finite, or a layer that is not diagonal.
        """
        step, self.step = self.step, self.step + 1
        dtype = scalar_dtype(self.live.model)
        if step % self.every:
            return torch.zeros((), dtype=dtype, device=next(self.live.model.parameters()).device)
        draw = np.random.default_rng([self.seed, step])
        found = [(layer, *self._drawn(system, draw)) for layer, system in self.live.systems()]
        try:
            parts = [share * self._penalty(systems) for share, systems in _alike(found)]
        except SsmtoolError:
            for layer, system, _ in found:
                check_finite_and_stable(*tensors_of(system), layer.name)
            raise
        total = torch.stack([part.to(parts[0].device) for part in parts]).sum()
        return (self.weight * self.every * total).to(dtype)

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """The unweighted penalty of every layer, all its systems; for logs. Raises as a call does."""
        return {layer.name: float(self._penalty([system])) for layer, system in self.live.systems()}

    def state_dict(self) -> dict[str, int]:
        """What a resumed run needs to draw the same channels."""
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue where `state_dict` was taken."""
        self.step = int(state["step"])

    def _drawn(self, system: DiagonalSystem, draw: np.random.Generator) -> tuple[DiagonalSystem, float]:
        """The systems that count in this step, and what each stands for."""
        if self.channels is None or self.channels >= system.systems:
            return system, 1.0
        a, B, C = tensors_of(system)
        index = torch.from_numpy(np.sort(draw.choice(system.systems, self.channels, replace=False))).to(a.device)
        part = replace(system, a=a[index], B=B[index], C=C[index])
        return part, system.systems / self.channels

    def _penalty(self, systems: list[DiagonalSystem]) -> Tensor:
        a, B, C = (torch.cat(parts) for parts in zip(*map(tensors_of, systems), strict=True))
        return hankel_penalty(a, B, C, self.kind, systems[0].real, scale=self.scale, order=self.order)


def _alike(found: list[tuple[Layer, DiagonalSystem, float]]) -> list[tuple[float, list[DiagonalSystem]]]:
    """Layers of the same sizes together: one batch is faster than many, and uses all cores."""
    groups: dict[tuple, list[DiagonalSystem]] = {}
    for _, system, share in found:
        key = (share, system.real, system.slots, system.inputs, system.outputs, tensors_of(system)[0].device)
        groups.setdefault(key, []).append(system)
    return [(key[0], systems) for key, systems in groups.items()]
