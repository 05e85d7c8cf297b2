"""The projected export: the original's tensors, two projectors beside every reduced mixer, and code that reads them.

    <mixer>.project_b, <mixer>.project_c     (G, r, N), in the dtype of the mixer's in_proj
    config.json                              ssmtool_projected_states: {"3.mixer": r, ...}, keys are the mixers' paths
                                             from the number of their block on; auto_map names the class below
    modeling_projected.py                    for AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True)

Code that knows nothing of this loads the same directory as the original model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ssmtool.checkpoint import Rewrite
from ssmtool.errors import FamilyError, UsageError
from ssmtool.families._contract import Layer
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.storage import Tensors
from ssmtool.selective.mixers import Mixer, ScalarMixer

STATES = "ssmtool_projected_states"
CODE = "modeling_projected.py"
# Classes of transformers whose mixers the code can give projectors, by the model_type of config.json.
CLASSES = {
    "mamba2": "Mamba2ForCausalLM",
    "bamba": "BambaForCausalLM",
    "falcon_h1": "FalconH1ForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
    "nemotron_h": "NemotronHForCausalLM",
    "zamba2": "Zamba2ForCausalLM",
}

Projectors = tuple[np.ndarray, np.ndarray]


def write_projected(
    model: Model,
    projectors: Mapping[str, Projectors],
    output: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    card: str | None = None,
) -> Path:
    """Write a projected copy of a checkpoint.

    Args:
        model: from `ssmtool.load`.
        projectors: layer name -> (project_b, project_c), each (G, r, N); other layers stay as they are.
        output: destination, which must not exist.
        metadata: for the safetensors file.
        card: section for README.md.

    Returns:
        the destination.

    Raises:
        UsageError: a layer that is not Mamba-2 or not there, projectors that do not fit, no config.json.
        OutputError, CheckpointError: as `Rewrite`.
    """
    layers = {layer.name: layer for layer in model.layers}
    unknown = [name for name in projectors if name not in layers]
    if unknown:
        raise UsageError(f"no layer {unknown[0]!r}", remedy=f"Layers: {', '.join(layers)}")
    with Rewrite(model.checkpoint, output) as rewrite:
        for name, pair in projectors.items():
            for tensor, (array, dtype) in _tensors(model, layers[name], pair).items():
                assert array is not None
                rewrite.put(tensor, array, dtype)
        states = [(layers[name], b.shape[1]) for name, (b, _) in projectors.items()]
        rewrite.config = with_states(model.checkpoint.config, states)
        projected_files(rewrite)
        rewrite.metadata = dict(metadata or {})
        rewrite.card = card
        return rewrite.commit()


def projected_tensors(model: Model, layer: Layer, mixers: tuple[Mixer, ...]) -> Tensors:
    """A layer's projectors as tensors to put: name -> (values, dtype).

    Args:
        layer: of the model.
        mixers: the layer's, one Mamba-2 mixer with project_b and project_c set.

    Raises:
        UsageError: a layer that is not one Mamba-2 mixer, or is projected already; projectors that do not fit.
    """
    mixer = mixers[0] if len(mixers) == 1 else None
    if not isinstance(mixer, ScalarMixer):
        raise _no_projection(layer)
    if mixer.project_b is None or mixer.project_c is None:
        raise UsageError("the mixer has no projectors", where=layer.name)
    return _tensors(model, layer, (mixer.project_b, mixer.project_c))


def projected_config(config: Mapping[str, Any] | None, layers: Iterable[Layer], rank: int) -> dict[str, Any]:
    """config.json with `rank` states in these layers. Raises UsageError where there is no config.json."""
    return with_states(config, ((layer, rank) for layer in layers))


def with_states(config: Mapping[str, Any] | None, states: Iterable[tuple[Layer, int]]) -> dict[str, Any]:
    """config.json of a projected checkpoint.

    Where transformers has a class for the model, auto_map names the one that replaces it. A map the directory came with
    is left out: it would lead to code that does not know the projectors.

    Args:
        config: the original's.
        states: projected layers and their r.

    Raises:
        UsageError: no config.json, and with it no way to say how the model is to be run.
    """
    if config is None:
        raise UsageError(
            "a projected export needs the model's directory with its config.json",
            remedy="Give the directory, or use --export stock",
        )
    from ssmtool.runtime.modeling_projected import PREFIX, place

    new = {key: value for key, value in config.items() if key != "auto_map"}
    new[STATES] = {place(mixer_path(layer)): int(r) for layer, r in states}
    known = CLASSES.get(str(config.get("model_type")))
    if known is not None:
        new["auto_map"] = {"AutoModelForCausalLM": f"{CODE.removesuffix('.py')}.{PREFIX}{known}"}
    return new


def projected_files(rewrite: Rewrite) -> None:
    """Put the code beside the weights."""
    rewrite.files[CODE] = files("ssmtool.runtime").joinpath(CODE).read_bytes()


def mixer_path(layer: Layer) -> str:
    """The path of a selective layer's mixer in the checkpoint: where its A_log lies."""
    path = next((name.rpartition(".")[0] for name in layer.tensors.values() if name.endswith("A_log")), None)
    if path is None:
        raise FamilyError("has no A_log", where=layer.name)
    return path


def _tensors(model: Model, layer: Layer, projectors: Projectors) -> Tensors:
    if layer.lti or layer.options.get("kind") != "mamba-2":
        raise _no_projection(layer)
    if "project_b" in layer.tensors:
        raise UsageError("is projected already", where=layer.name, remedy="Start from the original checkpoint")
    b, c = projectors
    groups, states = layer.options["groups"], layer.slots
    if b.ndim != 3 or b.shape != c.shape or (b.shape[0], b.shape[2]) != (groups, states) or b.shape[1] < 1:
        raise UsageError(
            f"projectors of shapes {b.shape} and {c.shape} do not fit {groups} groups of {states} states",
            where=layer.name,
        )
    path, dtype = mixer_path(layer), model.checkpoint.tensors[layer.tensors["in_proj.weight"]].dtype
    return {f"{path}.project_b": (b, dtype), f"{path}.project_c": (c, dtype)}


def _no_projection(layer: Layer) -> UsageError:
    return UsageError(
        "only Mamba-2 layers can be projected: the decay of Mamba-1 differs from channel to channel, so that mixing "
        "its states does not commute with it",
        where=layer.name,
        remedy="Use --export stock",
    )
