"""The hidden attention of a selective layer: how much of token s is in the output at token t.

alpha_{t,s} = sum_n C_t[n] exp(-a_n sum_{k=s+1..t} dt_k) dt_s B_s[n], so that
y_t = sum_{s<=t} alpha_{t,s} x_s + D x_t, for each channel of Mamba-1 and each head of Mamba-2.

Source: Ali, Zimerman & Wolf, "The hidden attention of Mamba models", 2024, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssmtool.analyses._projected import as_read
from ssmtool.selective.forward import Trace
from ssmtool.selective.mixers import Mixer

CHANNELS, QUERIES, SEQUENCES = 64, 16, 2  # looked at: channels at equal distances, late tokens, sequences per batch


@dataclass(frozen=True)
class Reach:
    """How far back a layer looks, in tokens.

    Attributes:
        mean_distance: of t - s, weighted with the shares of |alpha_{t,s}| per channel and query t.
        ninety: smallest distance within which 90 % of the weight lies.
        recency: least-squares slope of ln(mean share at distance d) against d, per token.
        shares: weight at distance 0, then per doubling: 1, 2-3, 4-7, ...
    """

    mean_distance: float | None
    ninety: float | None
    recency: float | None
    shares: tuple[float, ...]


def hidden_attention(
    mixer: Mixer, trace: Trace, queries: Tensor, channels: Tensor, *, sequences: int | None = None
) -> Tensor:
    """alpha (b, channels, queries, L), float64; 0 for s > t.

    Args:
        mixer: tensor fields.
        trace: from zero state.
        queries: positions t.
        channels: channels of Mamba-1, heads of Mamba-2.
        sequences: only the first so many of the batch.
    """
    mixer, trace = as_read(mixer, trace)
    batch = trace.dt.shape[0] if sequences is None else min(sequences, trace.dt.shape[0])
    units = trace.dt.shape[2]
    group = torch.div(channels * mixer.groups, units, rounding_mode="floor")
    dt = trace.dt[:batch, :, channels].double().transpose(1, 2)  # (b, c, L)
    total = dt.cumsum(-1)
    B, C = (part[:batch].double() for part in (trace.B, trace.C))
    B, C = (part.transpose(1, 2)[:, group] for part in (B, C))  # (b, c, L, N)
    span = total[:, :, queries, None] - total[:, :, None]  # (b, c, Q, L)
    causal = torch.arange(dt.shape[-1], device=dt.device) <= queries[:, None]
    span = span.clamp_min(0.0)  # what lies ahead of t is masked below
    rate = mixer.a_log.double().exp()[channels]
    alpha = torch.zeros_like(span)
    if rate.ndim == 1:
        alpha = torch.exp(-rate[:, None, None] * span) * (C[:, :, queries] @ B.mT)
    else:
        for n in range(rate.shape[1]):  # one state at a time: (b, c, Q, L, N) would not fit for large N
            read, written = C[:, :, queries, n, None], B[:, :, None, :, n]
            alpha += torch.exp(-rate[:, n, None, None] * span) * read * written
    return alpha * dt[:, :, None] * causal


class ReachMeter:
    """Averages the hidden attention over channels, late queries and sequences as a function of distance."""

    def __init__(self) -> None:
        self._weight: Tensor | None = None
        self._rows = 0.0

    @torch.no_grad()
    def add(self, mixer: Mixer, trace: Trace) -> None:
        """One batch. Only the last half of the sequence asks, so that every query has as much behind it."""
        length, units = trace.dt.shape[1:]
        device = trace.dt.device
        queries = torch.linspace(length // 2, length - 1, min(QUERIES, length - length // 2), device=device).long()
        channels = torch.linspace(0, units - 1, min(CHANNELS, units), device=device).long()
        size = hidden_attention(mixer, trace, queries, channels, sequences=SEQUENCES).abs()
        whole = size.sum(-1, keepdim=True)
        share = torch.where(whole > 0, size / torch.where(whole > 0, whole, 1.0), 0.0)
        if self._weight is None:
            self._weight = torch.zeros(length, dtype=torch.float64, device=device)
        distance = (queries[:, None] - torch.arange(length, device=device)).clamp_min(0)
        summed = share.sum((0, 1))
        self._weight = _room(self._weight, length)
        self._weight.scatter_add_(0, distance.flatten(), summed.flatten())
        self._rows += float((whole > 0).sum())

    def result(self) -> Reach:
        """What was averaged."""
        if self._weight is None or self._rows == 0:
            return Reach(None, None, None, ())
        weight = self._weight.cpu().numpy() / self._rows
        distance = np.arange(len(weight))
        half = max(len(weight) // 2, 2)
        seen = np.flatnonzero(weight[:half] > 0)
        recency = float(np.polyfit(seen, np.log(weight[seen]), 1)[0]) if len(seen) > 1 else None
        bins = [weight[0], *(weight[2**j : 2 ** (j + 1)].sum() for j in range((len(weight) - 1).bit_length()))]
        ninety = int(np.searchsorted(np.cumsum(weight), 0.9 * weight.sum()))
        return Reach(float(weight @ distance), float(ninety), recency, tuple(float(x) for x in bins))


def _room(weight: Tensor, length: int) -> Tensor:
    """The weights, made longer if need be."""
    return weight if len(weight) >= length else torch.nn.functional.pad(weight, (0, length - len(weight)))
