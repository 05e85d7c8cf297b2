"""Names of what surrounds the mixers in a language model made of nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families._contract import Layer, Stack
from ssmtool.families._names import option, resized

EMBEDDINGS = ("embedding.weight", "embeddings.weight")
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers")  # Hugging Face, mamba_ssm, mambapy


def stack(tensors: Mapping[str, TensorInfo], layers: tuple[Layer, ...], eps: float, tied: bool | None) -> Stack | None:
    """The model `embedding, (norm, mixer) x n, norm_f, lm_head`, or None if there is anything else, or less.

    Args:
        eps: of the norms.
        tied: whether the head is the embedding; None if only the absence of lm_head tells.
    """
    named = {layer.name: layer.tensors["A_log"].removesuffix("mixer.A_log") for layer in layers}
    if not layers or any(not start.endswith(".") for start in named.values()):
        return None
    trunks = {start.rsplit("layers.", 1)[0] for start in named.values()}
    if len(trunks) != 1:
        return None
    trunk = trunks.pop()
    roots = {trunk, trunk.removesuffix("mamba.")}  # mambapy's model keeps its blocks in `mamba`, the rest beside it
    embedding = next((r + e for r in roots for e in EMBEDDINGS if r + e in tensors), None)
    final = next((r + "norm_f.weight" for r in roots if r + "norm_f.weight" in tensors), None)
    heads = [r + "lm_head.weight" for r in (*roots, trunk.removesuffix("backbone."))]
    head = next((h for h in heads if h in tensors), None)
    if embedding is None or final is None or (head is None and tied is False):
        return None
    norms = {name: start + "norm.weight" for name, start in named.items()}
    head = embedding if head is None or tied else head
    used = {embedding, final, head, *norms.values(), *(n for layer in layers for n in layer.tensors.values())}
    unused = {n for n in tensors if n not in used} - set(heads)
    if unused or any(n not in tensors for n in norms.values()):
        return None
    order = sorted(norms, key=lambda name: int(norms[name].removesuffix(".norm.weight").rsplit(".", 1)[-1]))
    return Stack(embedding, head, {name: norms[name] for name in order}, final, eps)


def with_blocks(config: Mapping[str, Any] | None, count: int) -> dict[str, Any] | None:
    """config.json's content with another number of blocks; None for None.

    Raises:
        FamilyError: the configuration does not say how many there are.
    """
    if config is None:
        return None
    if not isinstance(option(config, *DEPTHS), int):
        raise FamilyError(f"none of {', '.join(DEPTHS)} says how many blocks there are", where="config.json")
    return resized(config, DEPTHS, count)
