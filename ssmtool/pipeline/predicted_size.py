"""What a layer would take in a checkpoint if so many states were kept: from the shapes its family stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ssmtool.errors import SsmtoolError
from ssmtool.families._contract import Layer
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.selective_layers import stock_tensors
from ssmtool.pipeline.storage import layer_bytes, store
from ssmtool.selective.mixers import Mixer
from ssmtool.selective.selection import Selection, keep_states


def predicted_sizes(model: Model, layer: Layer, content: System | tuple[Mixer, ...], ranks: Sequence[int]) -> list[int]:
    """Bytes of the layer's tensors for every rank; those it has now where the rank is its order or more.

    Every layout stores numbers per slot and numbers that do not depend on slots, so that two sizes give all others. A
    pair of complex poles takes one slot.

    Args:
        model, layer: the layer.
        content: its systems, or the mixers of a selective layer.
        ranks: states of a system (of a channel, for a selective layer), ascending.

    Returns:
        as many numbers; [] where the family cannot store the layer with fewer states.
    """
    now = layer_bytes(model, layer, {})[0]
    most = layer.slots if isinstance(content, (tuple, DiagonalSystem)) else content.order // 2
    if most < 2:
        return [now] * len(ranks)
    low, high = 1, most
    try:
        few, many = (now + _change(model, layer, content, slots) for slots in (low, high))
    except (SsmtoolError, ValueError, KeyError):
        return []
    per_slot = (many - few) / (high - low)
    states = 1 if isinstance(content, tuple) or (isinstance(content, DiagonalSystem) and content.real) else 2
    return [
        now if rank >= layer.order else min(now, round(few + per_slot * (max(1, -(-rank // states)) - low)))
        for rank in ranks
    ]


def _change(model: Model, layer: Layer, content: System | tuple[Mixer, ...], slots: int) -> int:
    """Bytes after minus bytes before, with so many slots."""
    if isinstance(content, tuple):
        kept = Selection(np.tile(np.arange(slots), (content[0].groups, 1)))
        small = tuple(keep_states(mixer, replace(kept, kept=kept.kept[: mixer.groups])) for mixer in content)
        before, after = layer_bytes(model, layer, stock_tensors(model, layer, small))
        return after - before
    if isinstance(content, DiagonalSystem):
        cut = replace(content, a=content.a[:, :slots], B=content.B[:, :slots], C=content.C[:, :, :slots])
    else:
        S, p, m = content.systems, content.outputs, content.inputs
        poles = np.tile(np.log(0.5) + 1j * np.linspace(0.5, 2.5, slots), (S, 1))
        cut = DiagonalSystem(poles, np.ones((S, slots, m), complex), np.ones((S, p, slots), complex), content.D)
    before, after = layer_bytes(model, layer, store(model, layer, cut, slots))
    return after - before
