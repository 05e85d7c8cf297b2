"""Modules that hold given tensors under given names, and compute nothing: what a regulariser sees of any model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from ssmtool.lti.systems import DiagonalSystem


def holder(tensors: Mapping[str, np.ndarray], *, buffers: bool = False) -> nn.Module:
    """A module whose state_dict has these names; whole numbers are buffers, the rest parameters unless `buffers`."""
    root = nn.Module()
    for name, array in tensors.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        value = torch.tensor(array)
        if buffers or not (value.is_floating_point() or value.is_complex()):
            module.register_buffer(leaf, value)
        else:
            module.register_parameter(leaf, nn.Parameter(value))
    return root


def neutral(*systems: DiagonalSystem) -> dict[str, np.ndarray]:
    """Layers "layers.0", "layers.1", … in the neutral layout, one batch of systems each."""
    tensors = {}
    for i, system in enumerate(systems):
        parts = {"lambda_log": system.a, "B": system.B, "C": system.C, "D": system.D}
        tensors |= {f"layers.{i}.{leaf}": x for leaf, x in parts.items()}
    return tensors
