"""What is left of a layer without the states that both versions keep, and how far apart it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import block_diag

from ssmtool.lti.systems import DenseSystem
from ssmtool.pipeline.stable_parts import stable_parts
from tests.lti.samples import dense, ring
from tests.pipeline.checkpoints import measured_errors

SINGLE = 2.0**-24


def pushed_out(system, count: int = 1):
    """The first slots of the first system outside the unit circle."""
    a = system.a.copy()
    a[0, :count] = 0.02 + 1j * a[0, :count].imag
    return replace(system, a=a)


def test_stable_layers_are_compared_whole():
    one, two = ring(2, 4, 2, 2), ring(2, 4, 2, 2, seed=1)
    parts = stable_parts(one, two, SINGLE)
    assert (parts.first, parts.second, parts.deviation, parts.reason) == (one, two, None, "")
    assert not np.concatenate(parts.unstable).any()
    np.testing.assert_allclose(parts.hinf_error("cpu"), measured_errors(one, two)[1], rtol=1e-4)  # grid of 1e-4 pi


def test_the_error_is_that_of_the_other_states_alone():
    """The same unstable mode beside two different systems: as if it were not there."""
    one, two = pushed_out(ring(2, 4)), ring(2, 4, seed=1)
    for part in ("a", "B", "C"):
        x, y = getattr(one, part), getattr(two, part).copy()
        if part == "C":
            y[0, :, 0] = x[0, :, 0]
        else:
            y[0, 0] = x[0, 0]
        two = replace(two, **{part: y})
    parts = stable_parts(one, two, SINGLE)
    assert parts.reason == ""
    assert [count.tolist() for count in parts.unstable] == [[2, 0], [2, 0]]
    for system in (one, two):
        system.B[0, 0] = 0
    first, second = (replace(x, a=np.minimum(x.a.real, -1e-3) + 1j * x.a.imag) for x in (one, two))
    np.testing.assert_allclose(parts.hinf_error("cpu"), measured_errors(first, second)[1], rtol=1e-4)


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
def test_a_layer_is_no_distance_from_itself(kind):
    """Not even the rounding of its responses: a layer that is left unchanged has the bound 0."""
    system = pushed_out(ring(2, 5, 3, 3)) if kind == "diagonal" else dense(2, 6, 2, 2, radius=1.1)
    for one in (system, ring(3, 9, 4, 4)):
        parts = stable_parts(one, one, SINGLE)
        assert parts.reason == ""
        assert not parts.hinf_error("cpu").any()


def test_a_dense_layer_and_its_modes():
    """Full S4 becomes diagonal: the unstable mode of the two is the same, up to the eigenvalues' own accuracy."""
    turn = 1.05 * np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    inner = dense(1, 3)
    A = np.asarray(block_diag(turn, inner.A[0]))
    b, c = np.array([1.0, 2, *inner.B[0, :, 0]]), np.array([3.0, -1, *inner.C[0, 0]])
    mix = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5))).Q
    system = DenseSystem((mix @ A @ mix.T)[None], (mix @ b)[None, :, None], (c @ mix.T)[None, None], inner.D)
    # c A^k b of the block is Re(w lambda^k) with lambda = 1.05 e^i and w = (c1 + i c2)* (b1 + i b2), all by hand
    weight = (3.0 + 1j) * (1 + 2j)
    poles = np.array([[np.log(1.05) + 1j, -0.5]])
    small = replace(ring(1, 2), a=poles, B=np.array([[[1.0], [0]]]), C=np.array([[[weight, 1]]]), D=inner.D)
    parts = stable_parts(system, small, SINGLE)
    assert parts.reason == ""
    assert parts.deviation is not None
    assert parts.deviation < 1e-12
    assert [count.tolist() for count in parts.unstable] == [[2], [2]]
    expected = measured_errors(inner, replace(small, C=0 * small.C))[1]
    np.testing.assert_allclose(parts.hinf_error("cpu"), expected, rtol=1e-4)


def test_what_differs_is_said():
    system = pushed_out(ring(3, 4), 2)
    fewer = system.a.copy()
    fewer[0, 0] = -0.1 + 1j * fewer[0, 0].imag
    other = system.a.copy()
    other[0, 0] += 0.001
    weights = system.C.copy()
    weights[0, :, 0] *= 1.01
    reasons = {
        "2 in place of 4": replace(system, a=fewer),
        "other poles": replace(system, a=other),
        "the same poles with other weights": replace(system, C=weights),
    }
    for words, changed in reasons.items():
        parts = stable_parts(system, changed, SINGLE)
        assert parts.apart.tolist() == [True, False, False]
        assert "not those of the original in system 0: " + words in parts.reason
    assert stable_parts(system, replace(system, C=weights), SINGLE, same_weights=False).reason == ""
    assert stable_parts(system, replace(system, a=other), SINGLE, same_weights=False).reason
