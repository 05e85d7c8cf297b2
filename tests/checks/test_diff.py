"""Two models layer by layer."""

from __future__ import annotations

import numpy as np
import pytest

from ssmtool.cache import Cache
from ssmtool.checks.diff import Profile, _change, diff, differ, profiles_of_model
from ssmtool.checks.subject import Bench
from ssmtool.pipeline.engines import local
from ssmtool.pipeline.model import load
from tests.checks.models import parts, sigma, write


def profiles(path):
    model = load(path)
    bench = Bench(model, Cache(None), None, "cpu", local(), lambda label, done, total, unit: None)
    return profiles_of_model(bench, model.layers)


def test_a_model_is_the_same_as_itself(tmp_path):
    path = write(tmp_path / "one.safetensors", {"a": parts(0), "b": parts(1)})
    found = diff(profiles(path), profiles(path))
    assert [layer.name for layer in found] == ["a", "b"]
    assert not any(layer.changed for layer in found)
    assert all(layer.sigma_change == 0 for layer in found)


def test_numbers_and_the_change_of_sigma(tmp_path):
    poles, B, C = parts(1)
    one = write(tmp_path / "one.safetensors", {"a": parts(0), "b": (poles, B, C), "c": parts(2)})
    other = write(tmp_path / "other.safetensors", {"b": (poles, 2 * B, C), "c": parts(2), "d": parts(0)})
    found = {layer.name: layer for layer in diff(profiles(one), profiles(other))}
    assert list(found) == ["a", "b", "c", "d"]
    assert (found["a"].after, found["d"].before) == (None, None)
    assert {name: layer.changed for name, layer in found.items()} == {"a": True, "b": True, "c": False, "d": True}
    # doubling B doubles every value: the largest change is half of the larger sigma_1, in every system
    assert found["b"].sigma_change == pytest.approx(0.5, rel=1e-9)
    pairs = found["b"].pairs()
    top = sigma((poles, B, C)).max()
    assert pairs["hankel_norm"] == pytest.approx((top, 2 * top), rel=1e-6)
    assert pairs["systems"] == (3, 3)
    assert pairs["states"] == (8, 8)
    assert pairs["bytes"] == (3 * 3 * 4 * 16,) * 2  # three tensors of 3 x 4 complex128
    assert pairs["unstable"] == pairs["redundant"] == (0, 0)
    assert pairs["order_energy_0.99"][0] == pairs["order_energy_0.99"][1]
    assert pairs["margin"][0] == pytest.approx(1 - np.exp(poles.real.max()), rel=1e-12)


def test_what_one_side_does_not_know_is_no_change():
    known = Profile("s4d s4d", {"states": 4.0, "margin": 0.1}, None)
    (layer,) = diff({"a": known}, {"a": Profile("", {"states": 4.0}, None)})
    assert not layer.changed
    assert layer.pairs() == {"states": (4.0, 4.0), "margin": (0.1, None)}
    (layer,) = diff({"a": known}, {"a": Profile("s4d s4", {"states": 4.0}, None)})
    assert layer.changed  # another layout


@pytest.mark.parametrize(
    ("x", "y", "differs"),
    [(1.0, 1.0, False), (1.0, 1 + 1e-12, False), (1.0, 1.001, True), (0.0, 1e-300, True), (np.inf, np.inf, False),
     (np.inf, 1.0, True), (-1.0, 1.0, True)],
)  # fmt: skip
def test_rounding(x, y, differs):
    assert differ(x, y) == differs


def test_changes_of_sigma():
    one = np.array([[4.0, 2.0, 1.0]])
    assert _change(one, np.array([[4.0, 1.0]])) == 0.25  # a value that is not there is 0: |2 - 1|, |1 - 0|, over 4
    assert _change(one, np.array([[4.0, 2.0, 1.0], [1.0, 1.0, 1.0]])) is None
    assert _change(np.array([[np.inf, 2.0]]), np.array([[np.inf, 2.0]])) == 0
    assert _change(np.array([[np.inf, 2.0]]), np.array([[3.0, 2.0]])) == np.inf
    assert _change(np.zeros((1, 2)), np.zeros((1, 2))) == 0
