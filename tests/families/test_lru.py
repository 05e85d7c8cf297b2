"""LRU: how each port reads gamma, angles and moduli at the ends of their range, and which tensors are LRU layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families import lru
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.systems import DiagonalSystem

AWKWARD = {
    "positive": [-0.1, -0.4],
    "negative": [-0.1 + 1j * np.pi, -0.4 - 1j * np.pi],
    "near the circle": [-1e-12 + 0.3j, -1e-9, -1e-7 + 1j * np.pi],
    "fast": [np.log(1e-300) + 1j, -13.0],
    "many turns": [-0.1 + 300.0j, -0.1 - 300.0j],
    "tiny angle": [-0.1 + 1e-12j, -0.1 - 1e-30j],
}


def system_with(a, like: DiagonalSystem) -> DiagonalSystem:
    """`like` with the given poles and random weights."""
    rng, n = np.random.default_rng(1), len(a)
    B, C = (rng.normal(size=(1, *s)) + 1j * rng.normal(size=(1, *s)) for s in ((n, like.inputs), (like.outputs, n)))
    return DiagonalSystem(a=np.asarray(a, dtype=complex)[None], B=B, C=C, D=like.D)


@pytest.mark.parametrize("poles", AWKWARD.values(), ids=AWKWARD)
@pytest.mark.parametrize("variant", lru.VARIANTS)
def test_awkward_poles_are_stored(first_layer, respond, variant, poles):
    layer, arrays = first_layer(lru, *lru.tiny(variant, 0))
    system = system_with(poles, lru.to_system(layer, arrays))
    new = lru.from_system(layer, arrays, system)
    assert all(np.isfinite(v.astype(np.complex64)).all() for v in new.values())
    again = lru.to_system(layer, new)
    h = impulse_response(system, 40)
    # Re a = -exp(nu_log): the logarithm of 1e-12 keeps all but two digits.
    np.testing.assert_allclose(np.real(again.a), np.real(system.a), rtol=1e-13)
    np.testing.assert_allclose(impulse_response(again, 40), h, rtol=0, atol=1e-11 * np.abs(h).max())
    u = np.random.default_rng(0).standard_normal((30, layer.inputs))
    y = respond(layer, system, u)
    np.testing.assert_allclose(lru.forward(layer, new, u), y, rtol=0, atol=1e-10 * np.abs(y).max())


def test_new_gamma_is_the_usual_normalisation(first_layer):
    for variant in lru.VARIANTS:
        layer, arrays = first_layer(lru, *lru.tiny(variant, 0))
        new = lru.from_system(layer, arrays, lru.to_system(layer, arrays))
        gamma = np.sqrt(1 - np.exp(-2 * np.exp(arrays["nu_log"])))
        stored = new["gamma_log"] if variant == "torch-raw-gamma" else np.exp(new["gamma_log"])
        np.testing.assert_allclose(stored, gamma, rtol=3e-7)  # stored as a float32 number


@pytest.mark.parametrize(("variant", "gamma"), [("flax", "exp"), ("torch-complex", "exp"), ("torch-raw-gamma", "raw")])
def test_the_port_tells_gamma_unless_the_configuration_does(first_layer, variant, gamma):
    tensors, config = lru.tiny(variant, 0)
    layer, arrays = first_layer(lru, tensors, config)
    assert layer.options == {"gamma": gamma}
    assert bool(layer.note) == (gamma == "raw")
    stored, modulus = arrays["gamma_log"], np.exp(-np.exp(arrays["nu_log"]))
    expected = {"exp": np.exp(stored), "raw": stored, "computed": np.sqrt(1 - modulus**2), "none": np.ones(5)}
    plain = lru.to_system(*first_layer(lru, tensors, {"gamma": "none"})).B
    for other, value in expected.items():
        told, _ = first_layer(lru, tensors, {"lru": {"gamma": other}})
        system = lru.to_system(told, arrays)
        np.testing.assert_allclose(system.B, value[:, None] * plain, rtol=1e-13)
        again = lru.to_system(told, lru.from_system(told, arrays, system))
        np.testing.assert_allclose(impulse_response(again, 20), impulse_response(system, 20), rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", lru.VARIANTS)
def test_without_gamma_log_it_is_computed(first_layer, respond, variant):
    tensors, config = lru.tiny(variant, 0)
    tensors = {k: v for k, v in tensors.items() if not k.endswith("gamma_log")}
    layer, arrays = first_layer(lru, tensors, config)
    assert layer.options == {"gamma": "computed"}
    assert "sqrt" in layer.note
    system = lru.to_system(layer, arrays)
    new = lru.from_system(layer, arrays, replace(system, a=system.a[:, 1:], B=system.B[:, 1:], C=system.C[:, :, 1:]))
    assert "gamma_log" not in new
    u = np.random.default_rng(0).standard_normal((30, layer.inputs))
    kept = replace(system, a=system.a[:, 1:], B=system.B[:, 1:], C=system.C[:, :, 1:])
    np.testing.assert_allclose(lru.forward(layer, new, u), respond(layer, kept, u), atol=1e-11)


def test_unstable_poles_are_refused(first_layer):
    layer, arrays = first_layer(lru, *lru.tiny("flax", 0))
    for pole in (0.0 + 1j, 0.1):
        with pytest.raises(FamilyError, match="stable"):
            lru.from_system(layer, arrays, system_with([pole], lru.to_system(layer, arrays)))


def test_a_full_feedthrough_needs_a_full_tensor(first_layer):
    for variant in lru.VARIANTS:
        layer, arrays = first_layer(lru, *lru.tiny(variant, 0))
        system = lru.to_system(layer, arrays)
        system.D[0, 0, 1] += 0.5
        if variant == "flax":
            with pytest.raises(FamilyError, match="diagonal"):
                lru.from_system(layer, arrays, system)
        else:
            np.testing.assert_array_equal(lru.from_system(layer, arrays, system)["D"], system.D[0])


def leaves(**change: tuple[int, ...] | None) -> dict[str, TensorInfo]:
    shapes: dict[str, tuple[int, ...] | None] = dict.fromkeys(("nu_log", "theta_log", "gamma_log"), (5,))
    shapes |= {"B_re": (5, 3), "B_im": (5, 3), "C_re": (4, 5), "C_im": (4, 5), "D": (4, 3)} | change
    return {f"LRU.{k}": TensorInfo(s, "F32") for k, s in shapes.items() if s is not None}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"C_im": (4, 6)}, r"LRU.C_im has shape \(4, 6\)"),
        ({"D": (4,)}, r"LRU.C_re has shape|LRU.D has shape"),
        ({"D": None}, "missing tensors: LRU.D"),
        ({"B_im": None}, "missing tensors: LRU.B_im"),
        ({"B_re": None, "B_im": None, "C_re": None, "C_im": None}, "missing tensors: LRU.B, LRU.C"),
    ],
)
def test_inconsistent_tensors_are_refused(change, complaint):
    with pytest.raises(FamilyError, match=complaint):
        lru.layers(leaves(**change), None)


def test_one_tensor_for_b_must_be_complex():
    real = {k: v for k, v in leaves(B=(5, 3), C=(4, 5)).items() if "_re" not in k and "_im" not in k}
    with pytest.raises(FamilyError, match="complex"):
        lru.layers(real, None)


def test_a_gamma_that_is_told_must_be_there():
    with pytest.raises(FamilyError, match=r"missing tensors: LRU\.gamma_log"):
        lru.layers(leaves(gamma_log=None), {"gamma": "exp"})


def test_other_values_under_the_key_gamma_mean_something_else():
    (layer,) = lru.layers(leaves(), {"gamma": 0.99})
    assert layer.options == {"gamma": "raw"}


def test_lookalikes_and_optimiser_copies_are_left_alone():
    assert lru.layers({"mixer.nu_log": TensorInfo((5,), "F32")}, None) == ()
    copies = {f"opt_state/0/mu/{k}": v for k, v in leaves().items()}
    assert [x.name for x in lru.layers(leaves() | copies, None)] == ["LRU"]


def test_configuration_of_the_reduced_model():
    (layer,) = lru.layers(leaves(), None)
    assert lru.reduced_config({"d_hidden": 5, "d_in": 3}, layer, 2) == {"d_hidden": 2, "d_in": 3}
    assert lru.reduced_config({"net": {"state_features": 5}}, layer, 2) == {"net": {"state_features": 2}}
