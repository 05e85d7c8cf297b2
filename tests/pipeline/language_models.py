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


def hybrid(kind: str) -> Any:
    """A tiny transformers model of a hybrid architecture, or of Falcon Mamba, untrained."""
    import transformers

    shared = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    mamba2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}
    # One group for Bamba and Granite: releases of transformers differ in the width of their gated norm.
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    made: dict[str, tuple[str, dict[str, Any]]] = {
        "bamba": (
            "Bamba",
            {**shared, **mamba2, "num_hidden_layers": 3, "intermediate_size": 48, "attn_layer_indices": [1]},
        ),
        "falcon_h1": (
            "FalconH1",
            {**shared, **mamba2, "num_hidden_layers": 2, "intermediate_size": 48, "head_dim": 8, "mamba_d_ssm": 64}
            | {"mamba_n_groups": 2}
            | {"ssm_in_multiplier": 1.7, "ssm_out_multiplier": 1.3, "ssm_multipliers": [0.9, 1.8, 1.7, 1.6, 0.5]},
        ),
        "granitemoehybrid": (
            "GraniteMoeHybrid",
            {**shared, **mamba2, **experts, "num_hidden_layers": 3, "intermediate_size": 48}
            | {"shared_intermediate_size": 48, "layer_types": ["mamba", "attention", "mamba"]}
            | {"residual_multiplier": 0.22, "embedding_multiplier": 2.0},
        ),
        "nemotron_h": (
            "NemotronH",
            {**shared, "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "chunk_size": 16}
            | {"layers_block_type": ["mamba", "attention", "mamba", "mlp"], "intermediate_size": 48, "head_dim": 8},
        ),
        "zamba2": (
            "Zamba2",
            {**shared, "num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"], "mamba_d_state": 8}
            | {"n_mamba_heads": 4, "mamba_headdim": 16, "mamba_ngroups": 2, "chunk_size": 16, "intermediate_size": 48}
            | {"num_mem_blocks": 1, "adapter_rank": 4, "use_mem_rope": False, "num_key_value_heads": 4},
        ),
        "jamba": (
            "Jamba",
            {**shared, "num_hidden_layers": 4, "intermediate_size": 48, "num_experts": 2, "num_experts_per_tok": 1}
            | {"mamba_d_state": 8, "attn_layer_period": 4, "attn_layer_offset": 2},
        ),
        "zamba": (
            "Zamba",
            {**shared, "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "mamba_d_state": 8}
            | {"n_mamba_heads": 2, "mamba_dt_rank": 4, "intermediate_size": 48}
            | {"attention_head_dim": 16, "num_key_value_heads": 4},
        ),
        "falcon_mamba": ("FalconMamba", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    }
    name, options = made[kind]
    config = getattr(transformers, f"{name}Config")(pad_token_id=0, bos_token_id=1, eos_token_id=2, **options)
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForCausalLM")(config)
