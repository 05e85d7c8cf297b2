"""Hankel singular values as a training objective: models that compress.

    regularizer = HankelRegularizer(model, weight=1e-4)
    loss = loss + regularizer()                             # in the training loop

Sources: Forgione, Mejari & Piga, CDC 2024, arXiv:2403.14833; Schwerdtner et al., NeurIPS 2025, arXiv:2510.22951.
Both differentiate a decomposition; here the gradient is closed-form (`ssmtool.lti.hankel_penalty`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssmtool.errors import UsageError
from ssmtool.families._contract import Layer
from ssmtool.lti.hankel_penalty import Penalised, check_finite_and_stable, evaluate
from ssmtool.lti.spectral_functions import SpectralFunction
from ssmtool.lti.systems import DiagonalSystem
from ssmtool.pipeline.live_layers import LiveLayers, scalar_dtype, tensors_of
from ssmtool.training.gradient_memory import GradientMemory


class HankelRegularizer:
    """weight times the sum, over layers and systems, of a function of the Hankel singular values.

    A call evaluates the penalty at the model's present parameters, as a scalar tensor with gradients. Layers with many
    single-input systems (S4D, DSS: one per channel) make that expensive. Two options cost less: `refresh` evaluates
    each system in every k-th step only and reuses its gradient in between; `channels` evaluates so many systems of each
    layer per step, drawn at random and scaled so that the expected value and gradient are those of the whole.

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
        refresh: int = 1,
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
            refresh: steps within which every system is evaluated once.
            channels: systems per layer and step; all by default. Not together with `refresh`.
            seed: of the draw of channels.
            layers, config, family: which layers, and what their tensors do not say, see `LiveLayers`.

        Raises:
            FamilyError: no known layer, or inconsistent tensors.
            UsageError: an option out of range, or a selected layer that depends on its input.
        """
        drawn = 1 if channels is None else channels
        for name, value, least in (("weight", weight, 0), ("channels", drawn, 1), ("refresh", refresh, 1)):
            if not value >= least:
                raise UsageError(f"{name} {value:g} of the regulariser is below {least}")
        if channels is not None and refresh > 1:
            raise UsageError("channels and refresh both given", remedy="refresh suits Adam and clipping, channels SGD")
        self.weight, self.channels, self.seed, self.step = weight, channels, seed, 0
        self.function = SpectralFunction(kind, scale, order)
        self._memory = GradientMemory(refresh)
        self.live = LiveLayers(model, layers=layers, config=config, family=family)

    def __call__(self) -> Tensor:
        """The weighted penalty, a scalar in the parameters' dtype (float32 at least).

        Raises:
            UnstableError: a layer with an eigenvalue on or outside the unit circle.
            UsageError: parameters that are not finite, or a layer that is not diagonal.
        """
        step, self.step = self.step, self.step + 1
        draw = np.random.default_rng([self.seed, step])
        found = []
        for layer, system in self.live.systems():
            check_finite_and_stable(*tensors_of(system), layer.name)
            found.append((layer, *self._drawn(system, draw)))
        total = self._total(found, step)
        return (self.weight * total).to(scalar_dtype(self.live.model))

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """The unweighted penalty of every layer, all its systems; for logs. Raises as a call does."""
        return {
            layer.name: float(evaluate(*tensors_of(system), self.function, system.real).value.sum())
            for layer, system in self.live.systems()
        }

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on exactly: the step, and gradients that are being reused."""
        return {"step": self.step, "memory": self._memory.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken, of the same model and options."""
        self.step = int(state["step"])
        self._memory.load_state_dict(state["memory"])

    def _drawn(self, system: DiagonalSystem, draw: np.random.Generator) -> tuple[DiagonalSystem, float]:
        """The systems that count in this step, and what each stands for."""
        if self.channels is None or self.channels >= system.systems:
            return system, 1.0
        a, B, C = tensors_of(system)
        index = torch.from_numpy(np.sort(draw.choice(system.systems, self.channels, replace=False))).to(a.device)
        part = replace(system, a=a[index], B=B[index], C=C[index])
        return part, system.systems / self.channels

    def _total(self, found: list[tuple[Layer, DiagonalSystem, float]], step: int) -> Tensor:
        """Sum over batches of equal sizes: one batch is faster than many, and uses all cores."""
        batches: dict[tuple, list[tuple[Layer, DiagonalSystem]]] = {}
        for layer, system, share in found:
            a, B, C = tensors_of(system)
            key = (share, system.real, a.device, B.shape[1:], C.shape[1:])
            batches.setdefault(key, []).append((layer, system))
        parts, position = [], 0
        for (share, real, *_), members in batches.items():
            a, B, C = (torch.cat(x) for x in zip(*(tensors_of(system) for _, system in members), strict=True))
            name = ", ".join(layer.name for layer, _ in members)
            function = partial(self._evaluate, real=real)
            parts.append(share * self._memory.penalty(name, (a, B, C), function, step - position).sum())
            position += len(a)
        return torch.stack([part.to(parts[0].device) for part in parts]).sum()

    def _evaluate(self, a: Tensor, B: Tensor, C: Tensor, real: bool) -> Penalised:
        return evaluate(a, B, C, self.function, real)
