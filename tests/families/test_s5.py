"""S5 in JAX: what its files leave open, awkward poles, and which tensors are taken for S5."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families import s5
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.systems import DiagonalSystem

# Under the bilinear rule exp(a) = 1e-6 and 1 + exp(a) = 1e-4 come out of differences: six and four digits less.
TIGHT = 1e-11
u = np.random.default_rng(0).standard_normal((30, 6))


def system_with(a, seed: int = 1, outputs: int = 6) -> DiagonalSystem:
    """One system with the given poles and random weights."""
    rng = np.random.default_rng(seed)
    a = np.asarray(a, dtype=complex)[None]
    n = a.shape[1]
    B, C = (rng.normal(size=(1, *s)) + 1j * rng.normal(size=(1, *s)) for s in ((n, 6), (outputs, n)))
    return DiagonalSystem(a=a, B=B, C=C, D=np.zeros((1, outputs, 6)))


AWKWARD = {
    "positive": [-0.1, -0.4],
    "negative": [-0.1 + 1j * np.pi, -0.4 - 1j * np.pi],
    "near the circle": [-1e-9 + 0.3j, -1e-9, -1e-4 + 1j * np.pi],
    "fast": [np.log(1e-6) + 1j, -13.0],
    "more than half a turn": [-0.1 - 4.0j],
    "upper half plane": [-0.1 + 2.0j, -0.2 - 1.0j, -0.3],
}


@pytest.mark.parametrize("poles", AWKWARD.values(), ids=AWKWARD)
@pytest.mark.parametrize("variant", ["jax", "jax-bilinear"])
def test_awkward_poles_are_stored(first_layer, respond, variant, poles):
    layer, arrays = first_layer(s5, *s5.tiny(variant, 0))
    system = system_with(poles)
    new = s5.from_system(layer, arrays, system)
    again = s5.to_system(replace(layer, slots=len(poles)), new)
    h = impulse_response(system, 40)
    np.testing.assert_allclose(impulse_response(again, 40), h, rtol=0, atol=TIGHT * np.abs(h).max())
    np.testing.assert_allclose(np.real(again.a), np.real(system.a), rtol=TIGHT)
    y = respond(layer, system, u)
    # exp(a) - 1 cancels in the plain formula: |a| = 1e-9 leaves seven digits of it.
    rtol = 1e-6 if np.abs(system.a).min() < 1e-6 else 1e-9
    np.testing.assert_allclose(s5.forward(layer, new, u), y, rtol=0, atol=rtol * np.abs(y).max())


def without_conj_sym(variant: str):
    tensors, config = s5.tiny(variant, 0)
    assert config is not None
    return tensors, {k: v for k, v in config.items() if k != "conj_sym"}, config


@pytest.mark.parametrize("variant", s5.VARIANTS)
def test_signs_tell_conj_sym(first_layer, variant):
    tensors, bare, config = without_conj_sym(variant)
    layer, arrays = first_layer(s5, tensors, bare)
    told, _ = first_layer(s5, tensors, config)
    assert layer.options["conj_sym"] is None
    assert "conj_sym" in layer.note
    assert told.note == ""
    np.testing.assert_array_equal(s5.to_system(layer, arrays).C, s5.to_system(told, arrays).C)


def test_configuration_overrides_the_signs(first_layer):
    tensors, _ = s5.tiny("jax", 0)
    half, arrays = first_layer(s5, tensors, {"model": {"conj_sym": True}})
    full, _ = first_layer(s5, tensors, {"conj_sym": False})
    assert (half.variant, full.variant) == ("jax", "jax-full")
    np.testing.assert_array_equal(s5.to_system(half, arrays).C, 2 * s5.to_system(full, arrays).C)


@pytest.mark.parametrize(
    ("signs", "half"),
    [
        ("----", True),
        ("++++", True),
        ("+-+-", False),
        ("-------+", True),
        ("--+", False),
        ("000", True),
        ("-00+", False),
    ],
)
def test_heuristic(signs, half):
    values = np.array([{"-": -2.0, "+": 1.5, "0": 0.0}[c] for c in signs])
    assert s5.signs_say_half(values) is half


@pytest.mark.parametrize("flip", [1, -1], ids=["negative", "positive"])
@pytest.mark.parametrize("variant", ["jax", "jax-full"])
def test_a_reduced_file_is_read_as_the_original_was(first_layer, variant, flip):
    tensors, config, _ = without_conj_sym(variant)
    for name in tensors:
        if name.endswith("Lambda_im"):
            tensors[name] = flip * tensors[name]
    layer, arrays = first_layer(s5, tensors, config)
    system = system_with([-0.1 + 1j, -0.2 + 2j, -0.3, -0.1 - 0.5j])
    again = s5.to_system(layer, s5.from_system(layer, arrays, system))
    np.testing.assert_allclose(impulse_response(again, 20), impulse_response(system, 20), atol=1e-12)


@pytest.mark.parametrize("poles", [[-0.1 + 1j], [-0.1, -0.2]])
def test_too_few_complex_poles_to_show_the_whole_spectrum(first_layer, poles):
    tensors, bare, config = without_conj_sym("jax-full")
    layer, arrays = first_layer(s5, tensors, bare)
    with pytest.raises(FamilyError, match="conj_sym"):
        s5.from_system(layer, arrays, system_with(poles))
    told, _ = first_layer(s5, tensors, config)
    again = s5.to_system(told, s5.from_system(told, arrays, system_with(poles)))
    np.testing.assert_allclose(impulse_response(again, 20), impulse_response(system_with(poles), 20), atol=1e-12)


def test_clip_eigs_limits_what_is_read_and_not_what_is_written(first_layer, respond):
    tensors, config = s5.tiny("jax", 0)
    tensors["params/encoder/layers_0/seq/Lambda_re"][:2] = 0.3, -1e-6
    layer, arrays = first_layer(s5, tensors, {**(config or {}), "clip_eigs": True})
    system = s5.to_system(layer, arrays)
    assert (np.real(system.a) < 0).all()
    np.testing.assert_allclose(s5.forward(layer, arrays, u), respond(layer, system, u), atol=1e-11)
    slow = system_with([-1e-8 + 0.5j, -1e-3 + 0.2j, -0.5])
    new = {
        k: v.astype(np.float32).astype(float) for k, v in s5.from_system(layer, arrays, slow).items() if v is not None
    }
    assert (new["Lambda_re"] <= -s5.CLIP).all()
    again = s5.to_system(replace(layer, slots=3), new)
    np.testing.assert_allclose(again.a, slow.a, rtol=3e-6)
    with pytest.raises(FamilyError, match="stable"):
        s5.from_system(layer, arrays, system_with([0.1 + 1j]))


def test_only_a_diagonal_feedthrough_is_stored(first_layer):
    layer, arrays = first_layer(s5, *s5.tiny("jax", 0))
    system = s5.to_system(layer, arrays)
    system.D[0, 0, 1] = 0.1
    with pytest.raises(FamilyError, match="diagonal"):
        s5.from_system(layer, arrays, system)


def test_feedthrough_of_both_directions_adds_up(first_layer, respond):
    layer, arrays = first_layer(s5, *s5.tiny("jax-bidirectional", 0))
    system = s5.to_system(layer, arrays)
    system.D[0, 6:] = np.diag(np.arange(6.0))
    y = respond(layer, system, u)
    np.testing.assert_allclose(s5.forward(layer, s5.from_system(layer, arrays, system), u), y, atol=1e-11)


def test_steps_become_their_geometric_mean_in_float32(first_layer):
    layer, arrays = first_layer(s5, *s5.tiny("jax", 0))
    new = s5.from_system(layer, arrays, system_with([-0.1, -0.2]))["log_step"]
    assert new.shape == (2, 1)
    np.testing.assert_allclose(new, arrays["log_step"].mean(), rtol=1e-7)
    np.testing.assert_allclose(new, new.astype(np.float32), rtol=1e-15)


def shapes(prefix: str, **leaves: tuple[int, ...]) -> dict[str, TensorInfo]:
    return {f"{prefix}/{name}": TensorInfo(shape, "F32") for name, shape in leaves.items()}


GOOD = {"Lambda_re": (4,), "Lambda_im": (4,), "B": (4, 6, 2), "C": (6, 4, 2), "D": (6,), "log_step": (4, 1)}


@pytest.mark.parametrize(
    "leaves",
    [
        # Annotated S4, one column per channel.
        {"Lambda_re": (4, 6), "Lambda_im": (4, 6), "P": (4, 6), "B": (4, 6), "C": (4, 6, 2), "log_step": (1, 6)},
        # ConvS5: C is a convolution kernel.
        {"Lambda_re": (4,), "Lambda_im": (4,), "B": (4, 54, 2), "C": (3, 3, 4, 6, 2), "log_step": (4, 1)},
        # DSS, expanded real part.
        {"Lambda_re": (4,), "Lambda_im": (4,), "W": (1, 6, 4, 2), "log_dt": (6,)},
    ],
    ids=["annotated-s4", "convs5", "dss"],
)
def test_lookalikes_are_left_alone(leaves):
    assert s5.layers(shapes("params/layers_0/seq", **leaves), None) == ()


def test_layers_may_differ_in_size_and_optimiser_copies_are_no_layers():
    tensors = shapes("params/encoder/layers_0/seq", **GOOD)
    tensors |= shapes(
        "params/encoder/layers_1/seq", **{k: tuple(3 if x == 4 else x for x in s) for k, s in GOOD.items()}
    )
    tensors |= shapes("opt_state/inner_states/ssm/inner_state/0/nu/encoder/layers_0/seq", **GOOD)
    assert [(x.name, x.slots) for x in s5.layers(tensors, None)] == [
        ("encoder/layers_0/seq", 4),
        ("encoder/layers_1/seq", 3),
    ]


@pytest.mark.parametrize("prefix", ["encoder.layers_0.seq", "params.encoder.layers_0.seq"])
def test_dotted_names(prefix):
    tensors = {k.replace("/", "."): v for k, v in shapes(prefix, **GOOD).items()}
    assert [x.name for x in s5.layers(tensors, None)] == ["encoder.layers_0.seq"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"C": (6, 5, 2)}, r"seq/C has shape \(6, 5, 2\)"),
        ({"log_step": (4,)}, "log_step"),
        ({"D": None}, "missing tensors: params/seq/D"),
        ({"C": None, "C1": (6, 4, 2)}, "missing tensors: params/seq/C2"),
        ({"C": None}, "missing tensors: params/seq/C"),
    ],
)
def test_inconsistent_tensors_are_refused(change, complaint):
    leaves = {k: v for k, v in {**GOOD, **change}.items() if v is not None}
    with pytest.raises(FamilyError, match=complaint):
        s5.layers(shapes("params/seq", **leaves), None)


def test_unknown_discretization_is_refused():
    with pytest.raises(FamilyError, match="foh"):
        s5.layers(shapes("params/seq", **GOOD), {"discretization": "foh"})


def test_configuration_of_the_reduced_model():
    (layer,) = s5.layers(shapes("params/seq", **GOOD), {"conj_sym": True})
    config = {"ssm_size_base": 8, "blocks": 2, "n_layers": 3, "model": {"ssm_size_base": 8}}
    new = s5.reduced_config(config, layer, 3)
    assert new == {"ssm_size_base": 6, "blocks": 1, "n_layers": 3, "model": {"ssm_size_base": 6}}
    assert s5.reduced_config(config, layer, 2)["blocks"] == 2
    (full,) = s5.layers(shapes("params/seq", **GOOD), {"conj_sym": False})
    assert s5.reduced_config(config, full, 3)["ssm_size_base"] == 3
    assert s5.reduced_config(None, layer, 3) == {}
