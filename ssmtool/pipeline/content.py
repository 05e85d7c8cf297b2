"""What a layer is, as a hash: the key under which results about it are kept."""

from __future__ import annotations

import hashlib

from ssmtool.cache import digest
from ssmtool.checkpoint import Checkpoint
from ssmtool.families._contract import Layer

VERSION = 1


def content_of(checkpoint: Checkpoint, layer: Layer) -> str:
    """Hash of a layer's tensors and options, read in pieces; only this layer's bytes are read.

    Two layers with the same hash are the same mathematics: what the tensors are called, and where they lie, is left
    out. Raises CheckpointError.
    """
    stored = {}
    for role, name in layer.tensors.items():
        seen = hashlib.sha256()
        for piece in checkpoint.chunks(name):
            seen.update(piece)
        info = checkpoint.tensors[name]
        stored[role] = (info.dtype, info.shape, seen.hexdigest())
    facts = {name: value for name, value in vars(layer).items() if name not in ("name", "tensors", "note")}
    return digest("layer", VERSION, {**facts, "constraints": vars(layer.constraints)}, stored)
