"""Modes switched off by a score, for comparison: LAST and AIRE rank them by gain or energy, one by one.

Within a layer each score is divided by the sum of itself and all larger ones; the least of all layers together go.

Sources: Gwak et al., Layer-Adaptive State Pruning, NeurIPS 2024, arXiv:2411.02824; Padhy et al., AIRE-Prune, 2026,
arXiv:2602.00534.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ssmtool.errors import ReductionError, UsageError
from ssmtool.pipeline.live_layers import LiveLayers, diagonal_system, live_tensors, refuse_unstable
from ssmtool.reductions._contract import SCORES
from ssmtool.reductions.modal import normalised, scores
from ssmtool.training.live_writing import arrays_of, layer_tensors, replace_tensors


@dataclass(frozen=True)
class Masked:
    """What `mask_modes` did.

    Attributes:
        modes: stored slots over all layers and systems.
        silenced: how many of them are switched off now.
        kept: layer name -> slots still on, over all its systems.
    """

    modes: int
    silenced: int
    kept: Mapping[str, int]


@torch.no_grad()
def mask_modes(
    model: nn.Module,
    share: float,
    score: str = "last",
    *,
    layers: Iterable[str] | None = None,
    config: Mapping[str, Any] | None = None,
    family: str | None = None,
) -> Masked:
    """Switch the least-scored modes off, in place; shapes stay, so nothing becomes smaller or faster.

    The layers' tensors are written again under their own names, which rounds them once and may choose another step
    size for the same poles; training goes on from there like from any other values and would revive the modes.

    Args:
        model: any module whose tensors have the names of a known family.
        share: of all modes of the selected layers, in [0, 1); at least one mode per layer stays.
        score: one of SCORES.
        layers, config, family: as in `LiveLayers`.

    Raises:
        UsageError: share or score out of range, no such layer.
        ReductionError: so many modes are asked for that a layer would have none left.
        UnstableError: an eigenvalue on or outside the unit circle.
        FamilyError: no known layer.
    """
    if score not in SCORES:
        raise UsageError(f"there is no score {score!r}", remedy=f"Scores: {', '.join(SCORES)}")
    if not 0 <= share < 1:
        raise UsageError(f"share {share:g} is not in [0, 1)")
    live = LiveLayers(model, layers=layers, config=config, family=family)
    present = live_tensors(model)
    found = []
    for layer, tensors in live:
        arrays = arrays_of(tensors)
        system = diagonal_system(layer, arrays)
        refuse_unstable(layer, system)
        found.append((layer, arrays, system))
    ranks = [normalised(scores(system, score).reshape(1, -1)).reshape(system.a.shape) for _, _, system in found]
    every = np.concatenate([rank.ravel() for rank in ranks])
    count = int(share * every.size + 1e-9)
    silent = np.zeros(every.size, dtype=bool)
    silent[np.argsort(every, kind="stable")[:count]] = True
    pieces = np.split(silent, np.cumsum([rank.size for rank in ranks])[:-1])
    kept, new = {}, {}
    for (layer, arrays, system), rank, piece in zip(found, ranks, pieces, strict=True):
        off = piece.reshape(rank.shape)
        kept[layer.name] = int((~off).sum())
        if not kept[layer.name]:
            raise ReductionError(f"share {share:g} leaves no mode", where=layer.name, remedy="Ask for a smaller one")
        if off.any():
            masked = replace(system, C=np.where(off[:, None], 0.0, system.C))
            new |= layer_tensors(layer, arrays, masked, present)
    replace_tensors(model, new)
    return Masked(every.size, count, kept)
