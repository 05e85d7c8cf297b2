"""Every architecture of transformers with selective layers: its own mixer modules against what is read from its files.

Models of a few thousand parameters, every parameter random, saved by the library itself and opened from disk. Its
modules keep parts of the computation in float32 whatever the weights are: 2e-5 of the largest output is what single
precision leaves of a few dozen steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ssmtool.families._contract import Layer
from ssmtool.pipeline.model import family_of, load
from ssmtool.selective.forward import forward
from ssmtool.selective.mixers import to_torch

transformers = pytest.importorskip("transformers")

SINGLE = 2e-5
MAMBA1 = {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2, "use_bias": True, "conv_kernel": 3}
SMALL = {"vocab_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ATTENTION = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 24}
HYBRID2 = {
    "hidden_size": 16,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 4,
    "mamba_proj_bias": True,
    "rms_norm_eps": 1e-3,
}
# family -> model class, configuration
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("Mamba", MAMBA1),
    "falcon_mamba": ("FalconMamba", MAMBA1 | {"mixer_rms_eps": 1e-3}),
    "jamba": (
        "Jamba",
        ATTENTION
        | {"hidden_size": 16, "num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 2}
        | {"mamba_d_state": 4, "mamba_dt_rank": 3, "mamba_proj_bias": True, "rms_norm_eps": 1e-3, "num_experts": 1},
    ),
    "zamba": (
        "Zamba",
        ATTENTION
        | {"hidden_size": 16, "num_hidden_layers": 4, "n_mamba_heads": 2, "mamba_d_state": 4, "mamba_dt_rank": 3}
        | {"mamba_proj_bias": True, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    ),
    "mamba2": (
        "Mamba2",
        {"hidden_size": 16, "state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 2, "num_hidden_layers": 2}
        | {"use_bias": True, "layer_norm_epsilon": 1e-3, "time_step_limit": (0.3, 0.9)},
    ),
    "zamba2": (
        "Zamba2",
        ATTENTION
        | {"hidden_size": 16, "num_hidden_layers": 4, "n_mamba_heads": 4, "mamba_ngroups": 2, "mamba_d_state": 4}
        | {"time_step_min": 0.5, "num_mem_blocks": 1, "add_bias_linear": True}
        | {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    ),
    "bamba": (
        "Bamba",
        ATTENTION | HYBRID2 | {"num_hidden_layers": 2, "attn_layer_indices": [1], "time_step_limit": (0.3, 0.9)},
    ),
    "falcon_h1": (
        "FalconH1",
        ATTENTION
        | HYBRID2
        | {"num_hidden_layers": 2, "mamba_d_ssm": 32, "mamba_rms_norm": True, "mamba_norm_before_gate": True}
        | {"ssm_in_multiplier": 1.3, "ssm_out_multiplier": 0.7, "ssm_multipliers": [0.9, 1.1, 0.6, 1.7, 0.8]}
        | {"projectors_bias": True},
    ),
    "nemotron_h": (
        "NemotronH",
        ATTENTION
        | {"hidden_size": 16, "ssm_state_size": 4, "mamba_num_heads": 4, "mamba_head_dim": 8, "n_groups": 2}
        | {"layers_block_type": ["mamba", "attention", "mlp", "mamba"], "time_step_min": 0.5, "use_bias": True}
        | {"layer_norm_epsilon": 1e-3, "head_dim": 8},
    ),
    "granite_moe_hybrid": (
        "GraniteMoeHybrid",
        ATTENTION
        | HYBRID2
        | {"num_hidden_layers": 2, "layer_types": ["mamba", "attention"], "residual_multiplier": 0.22}
        | {"time_step_limit": (0.3, 0.9), "shared_intermediate_size": 16, "num_local_experts": 0},
    ),
}
# Options that change the formula of a model above.
OTHERS = {
    "falcon_h1 after the gate": ("falcon_h1", {"mamba_norm_before_gate": False}),
    "falcon_h1 without norm": ("falcon_h1", {"mamba_rms_norm": False}),
    "mamba without biases": ("mamba", {"use_bias": False, "use_conv_bias": False}),
    "mamba2 with one group": ("mamba2", {"n_groups": 1, "use_bias": False, "use_conv_bias": False}),
}
CASES = {family: (family, {}) for family in MODELS} | OTHERS


def made(family: str, change: dict[str, Any]) -> Any:
    """A random model: the library's own start has zero biases, equal rows and norms of 1."""
    name, options = MODELS[family]
    torch.manual_seed(0)
    config = getattr(transformers, name + "Config")(**SMALL | options | change)
    model = getattr(transformers, name + "ForCausalLM")(config).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            leaf = key.rsplit(".", 1)[-1]
            if leaf == "A_log":
                p.uniform_(0.2, 4.0).log_()
            elif "norm" in key:
                p.uniform_(0.5, 1.5)
            else:
                p.normal_(0, 0.4)
    return model


def outputs(model: Any, layers: tuple[Layer, ...]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Layer name -> (input, output) of the model's own module, for random tokens."""
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    places = {layer.name.split("layers.", 1)[1]: layer.name for layer in layers}

    def watch(name: str):
        def hook(_module, args, kwargs, out):
            given = args[0] if args else kwargs["hidden_states"]
            seen[name] = (given.detach(), (out[0] if isinstance(out, tuple) else out).detach())

        return hook

    for path, module in model.named_modules():
        if hasattr(module, "A_log"):
            module.register_forward_hook(watch(places[path.split("layers.", 1)[1]]), with_kwargs=True)
    with torch.no_grad():
        model(input_ids=torch.randint(3, 32, (2, 21)), use_cache=False)
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_the_model_computes_what_its_file_says(case, dtype, tmp_path):
    family, change = CASES[case]
    model = made(family, change).to(dtype)
    model.save_pretrained(tmp_path)
    opened = load(tmp_path)
    assert {layer.family for layer in opened.layers} == {family}
    assert len(opened.layers) == sum(hasattr(m, "A_log") for m in model.modules())
    seen = outputs(model, opened.layers)
    for layer in opened.layers:
        x, theirs = (t.double() for t in seen[layer.name])
        # Some models multiply what their mixer gives outside of it; the canonical mixer contains that factor.
        theirs = theirs.numpy() * layer.options.get("scale_out", 1.0)
        arrays = opened.arrays(layer)
        (mixer,) = family_of(layer).to_mixers(layer, arrays)
        canonical = forward(to_torch(mixer, torch.float64), x)[0].numpy()
        ours = family_of(layer).forward(layer, arrays, x.numpy())
        largest = np.abs(theirs).max()
        assert largest > 1e-3
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=SINGLE * largest)
        np.testing.assert_allclose(canonical, ours, rtol=0, atol=1e-10 * largest)


@pytest.mark.parametrize("family", ["mamba", "falcon_mamba", "mamba2"])
def test_a_stack_is_the_whole_model(family, tmp_path):
    from ssmtool.selective.language import LanguageModel

    model = made(family, {"residual_in_fp32": False})
    model.save_pretrained(tmp_path)
    opened = load(tmp_path)
    module = family_of(opened.layers[0])
    stack = module.stack(opened.checkpoint.tensors, opened.checkpoint.config, opened.layers)
    stored = {name: p.detach().double() for name, p in model.state_dict().items()}
    ours = LanguageModel(
        embedding=stored[stack.embedding],
        head=stored[stack.head],
        norms={name: stored[norm] for name, norm in stack.norms.items()},
        mixers={
            layer.name: tuple(to_torch(m, torch.float64) for m in module.to_mixers(layer, opened.arrays(layer)))
            for layer in opened.layers
        },
        final_norm=stored[stack.final_norm],
        eps=stack.eps,
    )
    tokens = torch.randint(0, 32, (2, 21))
    with torch.no_grad():
        theirs = model(input_ids=tokens, use_cache=False).logits.double()
    logits = ours.logits(tokens)
    assert torch.linalg.norm(logits - theirs) < SINGLE * torch.linalg.norm(theirs)
