"""The neutral layout: every way of storing the same system reads alike, and the documented example runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ssmtool.errors import FamilyError
from ssmtool.families import neutral
from ssmtool.families._names import to_pairs
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.systems import DiagonalSystem

DOCUMENT = Path(__file__).parents[2] / "docs" / "neutral-format.md"
rng = np.random.default_rng(0)
POLES = -rng.uniform(0.1, 0.5, (2, 3)) + 1j * rng.uniform(-3, 3, (2, 3))
B = rng.normal(size=(2, 3, 2)) + 1j * rng.normal(size=(2, 3, 2))
C = rng.normal(size=(2, 1, 3)) + 1j * rng.normal(size=(2, 1, 3))


def test_complex_tensors_and_pairs_are_the_same(first_layer):
    plain = {"P.lambda_log": POLES, "P.B": B, "P.C": C}
    whole = neutral.to_system(*first_layer(neutral, plain, None))
    for split in ({"P.lambda_log"}, {"P.B"}, {"P.C"}, set(plain)):
        stored = {k: to_pairs(v) if k in split else v for k, v in plain.items()}
        system = neutral.to_system(*first_layer(neutral, stored, None))
        for name in ("a", "B", "C", "D"):
            np.testing.assert_array_equal(getattr(system, name), getattr(whole, name))
    np.testing.assert_array_equal(whole.a, POLES)
    assert whole.D.shape == (2, 1, 2)


def test_one_system_without_the_batch_axis(first_layer):
    one = neutral.to_system(*first_layer(neutral, {"lambda_log": POLES[0], "B": B[0], "C": C[0]}, None))
    same = neutral.to_system(*first_layer(neutral, {"lambda_log": POLES[:1], "B": B[:1], "C": C[:1]}, None))
    np.testing.assert_array_equal(impulse_response(one, 9), impulse_response(same, 9))


def test_real_weights_that_look_like_pairs(first_layer):
    """B (n, m = 2) real: the rank tells, not the length of the last axis."""
    layer, arrays = first_layer(neutral, {"lambda_log": POLES[0], "B": B[0].real, "C": C[0]}, None)
    assert (layer.slots, layer.inputs) == (3, 2)
    system = neutral.to_system(layer, arrays)
    np.testing.assert_array_equal(system.B[0], B[0].real)
    real = neutral.from_system(layer, arrays, system)["B"]
    assert real.shape == (3, 2)
    new = neutral.from_system(layer, arrays, DiagonalSystem(a=POLES[:1], B=B[:1], C=C[:1], D=system.D))
    np.testing.assert_array_equal(new["B"], to_pairs(B[0]))


DT = {"scalar": np.array(0.3), "per system": np.array([0.3, 0.7]), "per slot": rng.uniform(0.2, 0.9, (2, 3))}


@pytest.mark.parametrize("dt", DT.values(), ids=DT)
def test_dt_is_a_zero_order_hold(first_layer, respond, dt):
    layer, arrays = first_layer(neutral, {"lambda_log": POLES, "B": B, "C": C, "dt": dt}, None)
    system = neutral.to_system(layer, arrays)
    steps = np.broadcast_to(dt if dt.ndim != 1 else dt[:, None], POLES.shape)
    np.testing.assert_allclose(system.a, steps * POLES, rtol=1e-15)
    np.testing.assert_allclose(system.B, ((np.exp(steps * POLES) - 1) / POLES)[:, :, None] * B, rtol=1e-13)
    u = rng.normal(size=(25, 4))
    np.testing.assert_allclose(neutral.forward(layer, arrays, u), respond(layer, system, u), atol=1e-12)
    smaller = DiagonalSystem(a=system.a[:, 1:], B=system.B[:, 1:], C=system.C[:, :, 1:], D=system.D)
    new = neutral.from_system(layer, arrays, smaller)
    again = neutral.to_system(layer, new)
    np.testing.assert_allclose(impulse_response(again, 20), impulse_response(smaller, 20), atol=1e-12)
    assert new["dt"].shape == (dt.shape if dt.ndim < 2 else (2, 2))
    if dt.ndim < 2:
        np.testing.assert_array_equal(new["dt"], dt)


def test_steps_per_slot_without_a_batch(first_layer):
    dt = np.array([0.2, 0.3, 0.4])
    layer, arrays = first_layer(neutral, {"lambda_log": POLES[0], "B": B[0], "C": C[0], "dt": dt}, None)
    system = neutral.to_system(layer, arrays)
    np.testing.assert_allclose(system.a[0], dt * POLES[0], rtol=1e-15)
    assert neutral.from_system(layer, arrays, system)["dt"].shape == (3,)


@pytest.mark.parametrize("with_dt", [False, True])
def test_awkward_and_unstable_poles(first_layer, with_dt):
    """An integrator, a growing pole, real poles of both signs, a pole that dies at once."""
    a = np.array([[0.0, 0.05 + 1j, -0.3, -0.3 + 1j * np.pi, -700.0, -1e-12 + 1j]], dtype=complex)
    weights = np.ones((1, 6, 2)) * (1 + 2j), np.ones((1, 3, 6)) * (0.5 - 1j)
    system = DiagonalSystem(a=a, B=weights[0], C=weights[1], D=np.zeros((1, 3, 2)))
    tensors = {"lambda_log": POLES[:1], "B": B[:1], "C": np.ones((1, 3, 3), dtype=complex)}
    layer, arrays = first_layer(neutral, tensors | ({"dt": np.array([0.4])} if with_dt else {}), None)
    again = neutral.to_system(layer, neutral.from_system(layer, arrays, system))
    np.testing.assert_allclose(impulse_response(again, 30), impulse_response(system, 30), rtol=1e-11)


@pytest.mark.parametrize("separator", "./")
def test_a_new_feedthrough_gets_a_tensor(first_layer, separator):
    tensors = {f"P{separator}{k}": v for k, v in {"lambda_log": POLES, "B": B, "C": C}.items()}
    layer, arrays = first_layer(neutral, tensors, None)
    system = neutral.to_system(layer, arrays)
    assert f"P{separator}D" not in neutral.from_system(layer, arrays, system)
    feed = rng.normal(size=system.D.shape)
    new = neutral.from_system(layer, arrays, DiagonalSystem(a=system.a, B=B, C=C, D=feed))
    written = {layer.tensors.get(k, k): v for k, v in new.items()}
    np.testing.assert_array_equal(neutral.to_system(*first_layer(neutral, written, None)).D, feed)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"B": B[0]}, r"B has shape \(3, 2\)"),
        ({"C": None}, "missing tensors: C"),
        ({"lambda_log": POLES[0].real}, r"lambda_log has shape \(3,\)"),
        ({"lambda_log": POLES.real}, r"lambda_log has shape \(2, 3\)"),
        ({"D": np.zeros((2, 2, 1))}, r"D has shape \(2, 2, 1\)"),
        ({"D": np.zeros((2, 1, 2), dtype=complex)}, "D: stored as complex numbers"),
        ({"dt": np.zeros(3)}, r"dt has shape \(3,\)"),
        ({"dt": np.zeros((2, 1))}, r"dt has shape \(2, 1\)"),
    ],
)
def test_inconsistent_tensors_are_refused(infos, change, complaint):
    tensors = {"lambda_log": POLES, "B": B, "C": C} | change
    with pytest.raises(FamilyError, match=complaint):
        neutral.layers(infos({k: v for k, v in tensors.items() if v is not None}), None)


def test_the_documented_example_runs(tmp_path, monkeypatch):
    """It writes a dense system and compares responses itself."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), str(DOCUMENT), "exec"), {})
    assert (tmp_path / "model.safetensors").exists()
