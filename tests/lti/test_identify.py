"""Identification on records of known systems, simulated step by step from their definition."""

from __future__ import annotations

import numpy as np
import pytest

from ssmtool.errors import DataError, SsmtoolError, UnstableError
from ssmtool.lti.identify import identify, simulate
from ssmtool.lti.norms import difference, hinf_norm
from ssmtool.lti.subspace import WEIGHTINGS, compress, poles_and_outputs
from ssmtool.lti.systems import DenseSystem, DiagonalSystem, System
from tests.lti import samples


def run(system: System, u: np.ndarray, x: np.ndarray | None = None) -> np.ndarray:
    """x[k] = A x[k-1] + B u[k], y[k] = C x[k] + D u[k], one step after the other."""
    diagonal = isinstance(system, DiagonalSystem)
    A = np.diag(np.exp(system.a[0])) if diagonal else system.A[0]
    x = np.zeros(len(A)) if x is None else x
    y = []
    for now in u:
        x = A @ x + system.B[0] @ now
        y.append((system.C[0] @ x).real + system.D[0] @ now)
    return np.array(y)


def noise(length: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((length, channels))


def far(first: System, second: System) -> float:
    """H-infinity norm of the difference over that of the first, feedthrough included."""
    return float(hinf_norm(difference(first, second))[0] / hinf_norm(first)[0])


CASES = [(1, 1), (2, 3), (1, 2), (3, 1)]


@pytest.mark.parametrize(("m", "p"), CASES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_every_weighting_gives_the_poles_of_a_system_without_noise(m, p, weighting):
    system = samples.ring(1, 2, m, p, seed=m + p)
    u = noise(400, m)
    wide, s = compress([(u, run(system, u))], 8).observability(weighting)
    assert s[4] <= 1e-12 * s[0]
    A, _ = poles_and_outputs(wide, 4, p)
    lam = np.exp(system.a[0])
    expected = np.concatenate([lam, lam.conj()])
    found = np.linalg.eigvals(A)
    assert np.abs(found[:, None] - expected).min(axis=0).max() < 1e-10


@pytest.mark.parametrize(("m", "p"), CASES)
def test_the_system_is_recovered_without_noise(m, p):
    system = samples.mixed(1, 4, m, p, seed=7)
    u = noise(400, m)
    x = np.array([1.0, -2.0, 1 + 1j, 0.5j])  # not at rest before the record starts
    found = identify([(u, run(system, u, x))], 6)
    assert far(system, found.system) < 1e-8
    assert found.suggested == found.order == 6
    assert found.moved == 0
    assert (found.system.a.real < 0).all()


def test_a_dense_system_and_several_records_of_different_lengths():
    system = samples.dense(1, 5, 2, 2, seed=3)
    rng = np.random.default_rng(1)
    records = []
    for k, length in enumerate((60, 200, 4, 90)):  # one is too short to hold a window, and still fits
        u = noise(length, 2, k)
        records.append((u, run(system, u, rng.standard_normal(5))))
    assert far(system, identify(records, 5).system) < 1e-8


@pytest.mark.parametrize(("m", "p"), [(1, 1), (2, 2)])
def test_errors_fall_with_the_length_of_noisy_records(m, p):
    system = samples.ring(1, 2, m, p, seed=5)
    errors = []
    for length in (500, 8000, 64000):
        u = noise(length, m)
        y = run(system, u)
        errors.append(far(system, identify([(u, y + 0.2 * y.std() * noise(length, p, 1))], 4).system))
    # Errors go with the root of the length, 4 and 2.8 times; half of that leaves room for chance.
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 1.4
    assert errors[2] < 0.02


def test_a_delay_is_nearly_expressed():
    """y[k] = u[k-2] + 0.5 y[k-1]: poles at 0, which current-input form has only as fast poles."""
    u = noise(600, 1)
    y = np.zeros_like(u)
    for k in range(600):
        y[k] = (u[k - 2] if k > 1 else 0) + (0.5 * y[k - 1] if k else 0)
    found = identify([(u, y)], 3)
    assert np.linalg.norm(y - simulate(found.system, u, y)) < 1e-3 * np.linalg.norm(y)


def test_an_integrator_becomes_a_slow_stable_pole():
    u = noise(500, 1)
    found = identify([(u, np.cumsum(u, axis=0))], 1)
    assert found.moved == 1
    assert -1e-3 / 500 * 1.01 <= found.system.a[0, 0].real < 0
    y = np.cumsum(u, axis=0)
    assert np.linalg.norm(y - simulate(found.system, u, y)) < 2e-3 * np.linalg.norm(y)


def test_what_grows_is_refused():
    system = DenseSystem(np.full((1, 1, 1), 1.03), np.ones((1, 1, 1)), np.ones((1, 1, 1)), np.zeros((1, 1, 1)))
    u = noise(500, 1)
    with pytest.raises(UnstableError, match=r"moduli up to 1\.03"):
        identify([(u, run(system, u))], 1)


def test_simulate_looks_at_the_known_outputs_only():
    system = samples.ring(1, 2, 1, 2, seed=1)
    u = noise(200, 1)
    y = run(system, u, np.array([1.0, 1j]))
    spoilt = y.copy()
    spoilt[100:] = 1e6
    assert np.allclose(simulate(system, u, spoilt, 100), y, atol=1e-10 * np.abs(y).max())


def test_records_longer_than_a_piece_are_the_same_problem():
    system = samples.ring(1, 2, 1, 1, seed=2)
    u = noise(9000, 1)  # more than two pieces of 4096 steps
    y = run(system, u, np.array([3.0, 1j]))
    assert far(system, identify([(u, y)], 4).system) < 1e-10


def test_a_sum_of_sines_excites_as_many_states_as_it_has_lines():
    system = samples.ring(1, 1, seed=4)
    k = np.arange(400)
    lines = np.array([0.2, 0.7, 1.3, 2.1, 2.9])
    u = np.sin(np.outer(k, lines) + lines).sum(axis=1, keepdims=True)
    found = identify([(u, run(system, u))], 2)
    assert found.horizon == 5  # ten directions, five of past and five of future
    assert far(system, found.system) < 1e-6


@pytest.mark.parametrize(
    ("u", "options", "reason"),
    [
        (noise(20, 1), {"order": 8}, "20 samples in 1 sequences are too few for order 8"),
        (noise(3, 1), {}, "3 samples in 1 sequences are too few for a model"),
        (noise(100, 1), {"order": 2, "horizon": 40}, "too few"),
        (noise(400, 1), {"order": 8, "horizon": 4}, "a horizon of 4 steps shows no 8 states"),
        (np.ones((300, 1)), {"order": 2}, "not persistently exciting"),
        (np.sin(0.3 * np.arange(300))[:, None], {"order": 2}, "they contain 2"),
        (np.repeat(noise(300, 1), 2, axis=1), {"order": 2}, "not persistently exciting"),
        (np.zeros((300, 1)), {"order": 2}, "they contain 0"),
    ],
)
def test_records_that_do_not_determine_a_system(u, options, reason):
    y = run(samples.ring(1, 1, u.shape[1], 1, seed=0), u)
    with pytest.raises(DataError, match=reason) as caught:
        identify([(u, y)], **options)
    assert "\n" not in caught.value.line()


def test_silence_is_refused():
    with pytest.raises(SsmtoolError, match="outputs are 0"):
        identify([(noise(300, 1), np.zeros((300, 1)))], 2)
