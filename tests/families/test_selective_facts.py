"""What only a configuration can tell of selective layers: where it is read, and what is said where it is missing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families import bamba, caduceus, falcon_h1, falcon_mamba, jamba, mamba, mamba2, nemotron_h, vim, zamba2
from ssmtool.selective.mixers import ScalarMixer


def names(infos, module, variant: str) -> tuple[dict[str, TensorInfo], dict]:
    tensors, config = module.tiny(variant, 0)
    return infos(tensors), dict(config or {})


def test_groups_are_one_where_mamba_ssm_does_not_say(infos):
    tensors, config = names(infos, mamba2, "mamba-ssm")
    config["ssm_cfg"] = {"layer": "Mamba2", "d_state": 10}  # one group of 10 rows instead of two of 5
    (layer, _) = mamba2.layers(tensors, config)
    assert (layer.options["groups"], layer.slots) == (1, 10)


@pytest.mark.parametrize(
    ("ssm", "complaint"),
    [
        ({"d_state": 5}, r"ngroups not given, by default 1, d_state 5.* is not the 10 rows"),
        ({"ngroups": 2}, r"ngroups 2, d_state not given, by default 128.* is not the 10 rows"),
        ({"d_state": 5, "ngroups": 3}, "is not the 10 rows"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(infos, ssm, complaint):
    tensors, config = names(infos, mamba2, "mamba-ssm")
    with pytest.raises(FamilyError, match=complaint) as error:
        mamba2.layers(tensors, config | {"ssm_cfg": ssm})
    assert error.value.where == "backbone.layers.0.mixer"
    assert '"ngroups" and "d_state"' in error.value.remedy


def test_defaults_of_the_class_hold_where_its_configuration_is_silent(infos):
    tensors, config = names(infos, mamba2, "huggingface")
    del config["n_groups"]  # 8 by default, times 5
    with pytest.raises(FamilyError, match="n_groups not given, by default 8"):
        mamba2.layers(tensors, config)


def test_no_configuration_is_one_line_that_says_what_to_do(infos):
    tensors, _ = names(infos, mamba2, "huggingface")
    with pytest.raises(FamilyError) as error:
        mamba2.layers(tensors, None)
    assert "only config.json tells" in error.value.what
    assert error.value.where == "backbone.layers.0.mixer"
    assert "config.json" in error.value.remedy


def test_a_hybrid_that_does_not_name_itself_is_not_guessed(infos):
    for module in (bamba, falcon_h1, nemotron_h, zamba2):
        tensors, config = names(infos, module, module.VARIANTS[0])
        unnamed = {k: v for k, v in config.items() if k != "model_type"} | {"n_groups": 2, "d_state": 5}
        with pytest.raises(FamilyError, match="no model_type") as error:
            mamba2.layers(tensors, unnamed)
        assert "falcon_h1" in error.value.remedy
        with pytest.raises(FamilyError, match="'other' is unknown"):
            mamba2.layers(tensors, unnamed | {"model_type": "other"})
    tensors, config = names(infos, bamba, "huggingface")
    assert mamba2.layers(tensors, config | {"model_type": "mamba2", "n_groups": 2, "state_size": 5})


def test_a_language_model_inside_a_larger_one(infos):
    tensors, config = names(infos, falcon_h1, "norm-after-gate")
    whole = {"model_type": "falcon_h1_vision", "rms_norm_eps": 0.5, "vision_config": {"hidden_size": 3}}
    wrapped = {"language_model." + name: info for name, info in tensors.items()}
    layers = falcon_h1.layers(wrapped, whole | {"text_config": config})
    assert [dict(x.options) for x in layers] == [dict(x.options) for x in falcon_h1.layers(tensors, config)]
    assert layers[0].name == "language_model.model.layers.0.mamba"
    again = falcon_h1.reduced_config(whole | {"text_config": config}, layers[0], 3)
    assert again["text_config"]["mamba_d_state"] == 3
    assert "mamba_d_state" not in again


def test_infinity_as_transformers_writes_it(infos):
    tensors, config = names(infos, mamba2, "huggingface")
    for limit in ([0.0, {"__float__": "Infinity"}], [0.0, float("inf")], None):
        layer, _ = mamba2.layers(tensors, config | {"time_step_limit": limit})
        assert (layer.options["dt_min"], layer.options["dt_max"]) == (0.0, None)
    with pytest.raises(FamilyError, match="not a pair"):
        mamba2.layers(tensors, config | {"time_step_limit": 0.1})


def test_limits_that_transformers_does_not_apply(infos):
    """Nemotron-H and Zamba2 clamp with time_step_min from below and not from above, whatever time_step_limit says."""
    for module in (nemotron_h, zamba2):
        tensors, config = names(infos, module, "huggingface")
        layer = module.layers(tensors, config | {"time_step_limit": [0.0, 0.4]})[0]
        assert (layer.options["dt_min"], layer.options["dt_max"]) == (0.3, None)


def test_multipliers_of_zero_cannot_be_undone(infos):
    tensors, config = names(infos, falcon_h1, "plain")
    with pytest.raises(FamilyError, match="none of them 0"):
        falcon_h1.layers(tensors, config | {"ssm_multipliers": [1, 1, 0, 1, 1]})


def test_unknown_activations_are_refused(infos):
    for module, key in ((mamba, "hidden_act"), (mamba2, "hidden_act"), (nemotron_h, "mamba_hidden_act")):
        tensors, config = names(infos, module, "huggingface")
        with pytest.raises(FamilyError, match="'relu' is not supported"):
            module.layers(tensors, config | {key: "relu"})


def test_falcon_mamba_is_told_by_its_model_type_alone(infos):
    tensors, config = names(infos, falcon_mamba, "huggingface")
    assert mamba.layers(tensors, config) == ()
    assert falcon_mamba.layers(tensors, {"model_type": "mamba"}) == ()
    assert "FalconMamba" in mamba.layers(tensors, None)[0].note
    assert mamba.layers(tensors, {"model_type": "mamba"})[0].note == ""
    assert "unknown" in mamba.layers(tensors, {"model_type": "new"})[0].note


def test_weightless_norms_take_a_common_factor_only(first_layer):
    layer, arrays = first_layer(falcon_mamba, *falcon_mamba.tiny("huggingface", 0))
    (mixer,) = falcon_mamba.to_mixers(layer, arrays)
    mixer.b_norm[0] *= 2
    with pytest.raises(FamilyError, match="norms have no weights"):
        falcon_mamba.from_mixers(layer, arrays, (mixer,))


def test_jamba_says_that_it_took_the_default_eps(infos):
    tensors, config = names(infos, jamba, "huggingface")
    assert jamba.layers(tensors, config)[0].note == ""
    layer = jamba.layers(tensors, None)[0]
    assert layer.options["norm_eps"] == 1e-6
    assert "1e-6" in layer.note


def test_vim_without_if_divide_out_is_found_but_not_interpreted(first_layer):
    tensors, _ = vim.tiny("v2", 0)
    layer, arrays = first_layer(vim, tensors, None)
    assert "if_divide_out" in layer.note
    with pytest.raises(FamilyError, match="halved") as error:
        vim.to_mixers(layer, arrays)
    assert "config.json" in error.value.remedy


def test_vim_directions_share_what_they_share(first_layer):
    layer, arrays = first_layer(vim, *vim.tiny("v1", 0))
    one, other = vim.to_mixers(layer, arrays)
    moved = replace(one, x_b=one.x_b[:, ::-1])
    with pytest.raises(FamilyError, match=r"share layers\.0\.mixer\.x_proj\.weight"):
        vim.from_mixers(layer, arrays, (moved, other))


def test_directions_that_are_multiplied_are_no_sum(first_layer):
    tensors, config = caduceus.tiny("mamba-1", 0)
    layer, arrays = first_layer(caduceus, tensors, {**(config or {}), "bidirectional_strategy": "ew_multiply"})
    assert not layer.options["exportable"]
    assert "ew_multiply" in layer.note
    with pytest.raises(FamilyError, match="not a sum"):
        caduceus.to_mixers(layer, arrays)


def test_one_direction_alone(infos, first_layer):
    tensors, config = caduceus.tiny("mamba-1", 0)
    tensors = {n: x for n, x in tensors.items() if "mamba_rev" not in n}
    layer, arrays = first_layer(caduceus, tensors, config)
    assert (layer.outputs, layer.options["directions"], len(caduceus.to_mixers(layer, arrays))) == (1, 1, 1)


@pytest.mark.parametrize("stored_twice", [False, True])
def test_tied_projections_change_together(first_layer, stored_twice):
    """Mamba-2 has the rows of B and C in the tied tensor: other rows for one direction alone are refused."""
    tensors, config = caduceus.tiny("mamba-2-tied", 0)
    if stored_twice:
        tied = {n: x for n, x in tensors.items() if "_fwd.in_proj" in n or "_fwd.out_proj" in n}
        tensors |= {n.replace("_fwd", "_rev"): x.copy() for n, x in tied.items()}
    layer, arrays = first_layer(caduceus, tensors, config)
    assert layer.options["tied"]
    one, other = caduceus.to_mixers(layer, arrays)
    assert isinstance(one, ScalarMixer)
    moved = replace(one, in_b=one.in_b[::-1])
    with pytest.raises(FamilyError, match=r"both directions|directions share"):
        caduceus.from_mixers(layer, arrays, (moved, other))


def test_a_learnt_initial_state_is_refused(infos):
    tensors, config = names(infos, mamba2, "mamba-ssm")
    tensors["backbone.layers.0.mixer.init_states"] = TensorInfo((4, 3, 5), "F32")
    with pytest.raises(FamilyError, match="initial state"):
        mamba2.layers(tensors, config)


def test_lookalikes_are_left_alone(infos):
    tensors, _ = names(infos, mamba, "mamba-ssm")
    vision = {n: t for n, t in tensors.items() if "conv1d" not in n}
    vision |= {f"backbone.layers.{i}.mixer.conv1d_x.weight": TensorInfo((5, 1, 3), "F32") for i in range(2)}
    assert mamba.layers(vision, None) == ()
    assert mamba.layers({"mixer.A_log": TensorInfo((3, 4), "F32")}, None) == ()
    assert mamba2.layers({"mixer.A_log": TensorInfo((3,), "F32"), "mixer.D": TensorInfo((3,), "F32")}, None) == ()


def test_a_mixer_at_the_root_has_a_name(first_layer):
    tensors, _ = mamba.tiny("bare", 0)
    layer, arrays = first_layer(mamba, {n.removeprefix("encoder.mamba."): x for n, x in tensors.items()}, None)
    assert layer.name == "layer"
    assert np.isfinite(mamba.forward(layer, arrays, np.ones((1, 3, 6)))).all()


def test_mamba_ssm_keeps_its_state_size_where_it_looks_for_it(infos):
    tensors, config = names(infos, mamba, "mamba-ssm")
    layer = mamba.layers(tensors, config)[0]
    assert mamba.reduced_config(config, layer, 3)["ssm_cfg"] == {"d_state": 3}
    assert mamba.reduced_config({"d_model": 6, "ssm_cfg": {}}, layer, 3) == {"d_model": 6, "ssm_cfg": {"d_state": 3}}
    assert mamba.reduced_config({"ssm_cfg": None}, layer, 3) == {"ssm_cfg": {"d_state": 3}}
    assert mamba.reduced_config({"model_type": "mamba"}, layer, 3) == {"model_type": "mamba", "state_size": 3}
    assert mamba.reduced_config(None, layer, 3) == {}


def test_stacks_of_hybrids_and_layer_norms_are_none(infos):
    tensors, config = names(infos, mamba, "mamba-ssm")
    layers = mamba.layers(tensors, config)
    assert mamba.stack(tensors, config, layers) is not None
    assert mamba.stack(tensors, config | {"rms_norm": False}, layers) is None
    mlp = tensors | {"backbone.layers.0.mlp.fc1.weight": TensorInfo((8, 6), "F32")}
    assert mamba.stack(mlp, config, layers) is None
    assert mamba.stack({n: t for n, t in tensors.items() if "norm_f" not in n}, config, layers) is None


def test_finding_layers_imports_no_torch():
    code = (
        "import sys; from ssmtool import plugins\n"
        "for f in plugins.names('ssmtool.families'):\n"
        "    m = plugins.load('ssmtool.families', f); m.layers({}, None)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
