"""Projectors put into a Mamba-2 model that is already in memory, of transformers or of mamba_ssm."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmtool.checkpoint import open_checkpoint
from ssmtool.errors import UsageError
from ssmtool.runtime.modeling_projected import SCANS, mixers, place, project, scan_projected, step_projected

MAMBA_SSM = {"mamba_chunk_scan_combined": scan_projected, "selective_state_update": step_projected}

Projectors = Mapping[str, tuple[Any, Any]]


def patch(model: nn.Module, projectors: str | Path | Projectors) -> nn.Module:
    """Make the Mamba-2 mixers of a model run with the states of their projectors, in prefill and in cached decoding.

    The model is changed in place; its other weights stay as they are.

    Args:
        model: of transformers (Mamba2, Zamba2, Bamba, FalconH1, NemotronH, GraniteMoeHybrid), or with mixers of
            mamba_ssm (Mamba2).
        projectors: a projected checkpoint, or path of the mixer -> (project_b, project_c), each (G, r, N); of the path
            only the part from the number of the block on counts.

    Returns:
        the model.

    Raises:
        UsageError: a mixer the model does not have or whose code is neither of the two; projectors that do not fit.
        CheckpointError: a checkpoint that cannot be read.
    """
    if not isinstance(projectors, Mapping):
        projectors = read_projectors(projectors)
    found = mixers(model)
    for path, (b, c) in projectors.items():
        mixer: Any = found.get(place(path))
        if mixer is None:
            raise UsageError(
                "the model has no such Mamba-2 mixer", where=path, remedy=f"It has {', '.join(list(found)[:4])}"
            )
        like = mixer.in_proj.weight
        b, c = (torch.as_tensor(x).detach().to(like.device, like.dtype) for x in (b, c))
        _check(path, mixer, b, c)
        try:
            if _of_mamba_ssm(mixer):
                project(mixer, b, c, MAMBA_SSM)
                _narrow_cache(mixer, b.shape[1])
            else:
                project(mixer, b, c, SCANS)
        except RuntimeError as problem:
            raise UsageError(str(problem), where=path) from problem
    return model


def read_projectors(target: str | Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Path of the mixer -> (project_b, project_c) of a projected checkpoint. Raises CheckpointError, UsageError."""
    checkpoint = open_checkpoint(target)
    paths = [name.removesuffix(".project_b") for name in checkpoint.tensors if name.endswith(".project_b")]
    if not paths:
        raise UsageError(
            "holds no projectors", where=str(target), remedy="Make one: ssmtool compress MODEL --export projected"
        )
    return {
        path: (
            torch.from_numpy(checkpoint.read(f"{path}.project_b")),
            torch.from_numpy(checkpoint.read(f"{path}.project_c")),
        )
        for path in paths
    }


def _check(path: str, mixer: Any, b: Tensor, c: Tensor) -> None:
    groups = getattr(mixer, "n_groups", getattr(mixer, "ngroups", None))
    states = getattr(mixer, "ssm_state_size", getattr(mixer, "d_state", None))
    if b.ndim != 3 or b.shape != c.shape or (b.shape[0], b.shape[2]) != (groups, states):
        raise UsageError(
            f"projectors of shapes {tuple(b.shape)} and {tuple(c.shape)} do not fit {groups} groups of {states} states",
            where=path,
        )


def _of_mamba_ssm(mixer: Any) -> bool:
    """Whether the mixer's code is mamba_ssm's or written like it."""
    module = sys.modules[type(mixer).__module__]
    return callable(getattr(module, "mamba_chunk_scan_combined", None)) and hasattr(mixer, "d_state")


def _narrow_cache(mixer: Any, states: int) -> None:
    """Let mamba_ssm's mixer allocate r states per channel, and never take the kernel that fuses all of it.

    The mixer allocates by its d_state, which it also cuts B and C with: what it allocates is cut afterwards.
    """
    mixer.use_mem_eff_path = False
    allocate, stored = mixer.allocate_inference_cache, mixer._get_states_from_cache

    def allocate_narrow(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        conv_state, state = allocate(*args, **kwargs)
        return conv_state, state[..., :states].contiguous()

    def stored_narrow(inference_params: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        conv_state, state = stored(inference_params, *args, **kwargs)
        if state.shape[-1] != states:
            state = state[..., :states].contiguous()
            inference_params.key_value_memory_dict[mixer.layer_idx] = (conv_state, state)
        return conv_state, state

    mixer.allocate_inference_cache, mixer._get_states_from_cache = allocate_narrow, stored_narrow
