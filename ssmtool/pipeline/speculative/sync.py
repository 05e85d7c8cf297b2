"""What a drafter knows after a round: its own reading of the accepted tokens, or the verifier's state, projected.

A projected mixer's state is the original's times its projector, h_r = h W with W^T = project_b, where both have read
the same x, dt and B: h is a sum of decay * dt x B^T, and the projector acts on B alone. A block shared with the
verifier has the verifier's state itself. Behind the first block that differs, a draft sees other activations than the
verifier: there the projection is what the draft would hold had it seen the verifier's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import torch
from torch import Tensor

from ssmtool.pipeline.generate import Memories
from ssmtool.selective.forward import Memory
from ssmtool.selective.language import LanguageModel
from ssmtool.selective.mixers import Mixer, ScalarMixer

PROJECTORS = ("project_b", "project_c")


def links(verifier: LanguageModel, draft: LanguageModel) -> dict[str, str] | None:
    """Draft layer -> the verifier's layer it was made of; None if one of them is no copy with or without projectors.

    Weights are compared, not names: blocks are renumbered where some were dropped.
    """
    found: dict[str, str] = {}
    waiting = iter(verifier.names)
    for name in draft.names:
        mine = draft.mixers[name]
        match = next((other for other in waiting if _made_of(mine, verifier.mixers[other])), None)
        if match is None:
            return None
        found[name] = match
    return found


def projected_memories(linked: Mapping[str, str], draft: LanguageModel, memories: Memories) -> Memories:
    """The draft's memories by the verifier's.

    Args:
        linked: from `links`.
        draft: has the projectors.
        memories: the verifier's.
    """
    return {
        name: tuple(
            _projected(mixer, memory) for mixer, memory in zip(draft.mixers[name], memories[source], strict=True)
        )
        for name, source in linked.items()
    }


def _projected(mixer: Mixer, memory: Memory) -> Memory:
    projector = mixer.project_b if isinstance(mixer, ScalarMixer) else None
    if projector is None or memory.h.shape[-1] == projector.shape[1]:
        return memory
    batch, heads, width, states = memory.h.shape
    grouped = memory.h.reshape(batch, projector.shape[0], -1, states)
    return Memory(memory.tail, (grouped @ projector.mT).reshape(batch, heads, width, -1))


def _made_of(draft: tuple[Mixer, ...], original: tuple[Mixer, ...]) -> bool:
    return len(draft) == len(original) and all(map(_is_copy, draft, original))


def _is_copy(mixer: Mixer, original: Mixer) -> bool:
    if type(mixer) is not type(original):
        return False
    if isinstance(original, ScalarMixer) and original.project_b is not None:
        return all(_same(getattr(mixer, f.name), getattr(original, f.name)) for f in fields(mixer))
    return all(
        _same(getattr(mixer, f.name), getattr(original, f.name)) for f in fields(mixer) if f.name not in PROJECTORS
    )


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and torch.equal(a, b))
    return a is b or a == b
