"""What a layer is, as a hash: the key under which results about it are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from ssmtool.cache import digest
from ssmtool.checkpoint import Checkpoint
from ssmtool.families._contract import Layer

VERSION = 1


def content_of(checkpoint: Checkpoint, layer: Layer) -> str:
    """Hash of a layer's tensors and options, read in pieces; only this layer's bytes are read.

    Two layers with the same hash are the same mathematics: what the tensors are called, and where they lie, is left
    out. Raises CheckpointError.
    """
    hashes = {}
    for role, name in layer.tensors.items():
        seen = hashlib.sha256()
        for piece in checkpoint.chunks(name):
            seen.update(piece)
        hashes[role] = seen.hexdigest()
    return _digest(checkpoint, layer, hashes)


def read_with_content(checkpoint: Checkpoint, layer: Layer) -> tuple[dict[str, np.ndarray], str]:
    """A layer's tensors by role, and the hash of exactly the bytes they were made from. Raises CheckpointError.

    A file that changes between two reads would put the results of one content under the hash of the other.
    """
    arrays, hashes = {}, {}
    for role, name in layer.tensors.items():
        seen = hashlib.sha256()
        arrays[role] = checkpoint.read(name, seen.update)
        hashes[role] = seen.hexdigest()
    return arrays, _digest(checkpoint, layer, hashes)


def _digest(checkpoint: Checkpoint, layer: Layer, hashes: Mapping[str, str]) -> str:
    infos = {role: checkpoint.tensors[name] for role, name in layer.tensors.items()}
    stored = {role: (info.dtype, info.shape, hashes[role]) for role, info in infos.items()}
    facts = {name: value for name, value in vars(layer).items() if name not in ("name", "tensors", "note")}
    return digest("layer", VERSION, {**facts, "constraints": vars(layer.constraints)}, stored)
