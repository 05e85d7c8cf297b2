"""Small random language models on disk, for tests that run whole models on tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from ssmtool.training.language.model import ByteModel, Sizes

SIZES = {
    "mamba": Sizes("mamba", width=32, depth=2, states=8),
    "mamba2": Sizes("mamba2", width=32, depth=2, states=16, head=16),
}


def byte_model(folder: Path, kind: str, seed: int = 0) -> Path:
    """A byte model as a Hugging Face directory; larger weights than at the start of training, so that logits differ."""
    torch.manual_seed(seed)
    model = ByteModel(SIZES[kind])
    with torch.no_grad():
        model.backbone.embeddings.weight.mul_(25)
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.weight", "norm_f.weight", "D", "conv1d.bias")):
                parameter.add_(0.3 * torch.randn_like(parameter))
            if name.endswith("out_proj.weight"):
                parameter.mul_(4)
    folder.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config()))
    return folder


def tokens(rows: int = 2, length: int = 24, vocabulary: int = 256, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, vocabulary, (rows, length)))


def saved(model: Any, folder: Path) -> Path:
    """A transformers model with every weight random, written as transformers writes it."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                parameter.copy_(torch.rand_like(parameter))
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder
