"""The steps dt that selective layers take: from dt_bias alone, and as a histogram over tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssmtool.selective.mixers import DiagonalMixer, Mixer

PER_DECADE = 10
_LOW, _HIGH = -8, 3  # decades of dt; what lies outside is counted in the outer bins


@dataclass(frozen=True)
class Pace:
    """What of a mixer's weights decides how fast it forgets: the decay of a step dt is exp(-rates dt).

    Attributes:
        rates: a = exp(A_log) > 0, (E, N) for Mamba-1, (H, 1) for Mamba-2.
        steps: (E,) or (H,) softplus(dt_bias), the step of a token that says nothing about it.
    """

    rates: np.ndarray
    steps: np.ndarray


def pace(mixer: Mixer) -> Pace:
    """Of a mixer with numpy fields."""
    rate = np.exp(np.asarray(mixer.a_log, dtype=np.float64))
    step = np.logaddexp(0.0, np.asarray(mixer.dt_bias, dtype=np.float64))
    if not isinstance(mixer, DiagonalMixer):
        step = np.clip(step, mixer.dt_min, mixer.dt_max)
    return Pace(rate if rate.ndim == 2 else rate[:, None], step)


class StepHistogram:
    """Steps over tokens, per channel (Mamba-1) or head (Mamba-2); memory does not grow with the number of tokens."""

    def __init__(self) -> None:
        self._counts: Tensor | None = None
        self._total: Tensor | None = None
        self._tokens = 0

    @torch.no_grad()
    def add(self, dt: Tensor) -> None:
        """Steps (b, L, E) or (b, L, H) of one batch."""
        flat = dt.flatten(0, 1).double()  # (tokens, E)
        width, bins = flat.shape[1], (_HIGH - _LOW) * PER_DECADE
        if self._counts is None:
            self._counts = torch.zeros(width, bins, dtype=torch.float64, device=flat.device)
            self._total = torch.zeros(width, dtype=torch.float64, device=flat.device)
        assert self._total is not None
        places = ((flat.clamp_min(1e-300).log10() - _LOW) * PER_DECADE).floor().long().clamp(0, bins - 1)
        self._counts.scatter_add_(1, places.T, torch.ones_like(flat.T))
        self._total += flat.sum(0)
        self._tokens += flat.shape[0]

    def mean(self) -> np.ndarray:
        """(E,) mean step."""
        assert self._total is not None
        return (self._total / self._tokens).cpu().numpy()

    def log10_bins(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres (bins,) in log10 dt and counts (E, bins); empty bins at both ends left out."""
        assert self._counts is not None
        counts = self._counts.cpu().numpy()
        used = np.flatnonzero(counts.sum(0))
        centres = _LOW + (np.arange(counts.shape[1]) + 0.5) / PER_DECADE
        return centres[used[0] : used[-1] + 1], counts[:, used[0] : used[-1] + 1]


class StepRange:
    """Smallest and largest step over tokens, per channel (Mamba-1) or head (Mamba-2)."""

    def __init__(self) -> None:
        self._range: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def add(self, dt: Tensor) -> None:
        """Steps (b, L, E) or (b, L, H) of one batch."""
        flat = dt.flatten(0, 1).double()
        least, most = flat.amin(0), flat.amax(0)
        if self._range is not None:
            least, most = torch.minimum(least, self._range[0]), torch.maximum(most, self._range[1])
        self._range = least, most

    def extremes(self) -> tuple[np.ndarray, np.ndarray]:
        """(E,) smallest and largest."""
        assert self._range is not None
        return self._range[0].cpu().numpy(), self._range[1].cpu().numpy()
