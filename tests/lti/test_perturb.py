"""Direct eigendecomposition, perturb-then-diagonalise and residue refit where eigenvectors are ill-conditioned.

The truth is the transfer function in 40 digits, C (I - A e^{-i omega})^-1 B solved by mpmath with the float64 matrices
taken as exact; so are the slots that come back. Claimed errors come from float64: solves right to 1e-13 of the largest
gain for the systems here, and sums of residues right to the rounding of the largest.
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from scipy import linalg

from ssmtool.lti.diagonalise import diagonalise
from ssmtool.lti.hankel import balance
from ssmtool.lti.perturb import PoleResidues, choose, direct, eigen, perturbed, refitted, response
from ssmtool.lti.systems import DenseSystem, DiagonalSystem, System
from tests.lti.samples import ring

SOLVES = 1e-13
WAYS = {"direct": direct, "perturbed": perturbed, "refit": refitted}
Realisation = tuple[np.ndarray, np.ndarray, np.ndarray]


def driven(A: np.ndarray, inputs: int = 2, outputs: int = 2) -> Realisation:
    rng = np.random.default_rng(len(A))
    return A, rng.standard_normal((len(A), inputs)), rng.standard_normal((outputs, len(A)))


def jordan(order: int, pole: float, coupling: float = 0.5) -> np.ndarray:
    return pole * np.eye(order) + coupling * np.eye(order, k=1)


def turned(A: np.ndarray) -> np.ndarray:
    """In an orthogonal basis: rounding then splits the poles, residues of opposite sign grow."""
    T = np.linalg.qr(np.random.default_rng(1).standard_normal(A.shape))[0]
    return T @ A @ T.T


def cut(poles: np.ndarray, order: int) -> Realisation:
    """A balanced truncation of a system whose poles stand close together."""
    base = ring(1, len(poles), seed=4)
    return truncated(DiagonalSystem(poles[None], base.B, base.C, base.D), order)


def beside(faint: float) -> Realisation:
    """A balanced truncation that drops two faint states and keeps a Jordan block of 3, moved a little by the cut."""
    A, B, C = driven(np.asarray(linalg.block_diag(jordan(3, 0.8), 0.3, -0.2)))
    size = np.array([1, 1, 1, faint, faint])
    return truncated(DenseSystem(A[None], (B * size[:, None])[None], (C * size)[None], np.zeros((1, 2, 2))), 3)


def truncated(system: System, order: int) -> Realisation:
    balanced = balance(system, system.order)
    assert balanced.usable[0] >= order
    return balanced.A[0, :order, :order], balanced.B[0, :order], balanced.C[0, :, :order]


SYSTEMS: dict[str, Realisation] = {
    "Jordan block of 2": driven(jordan(2, 0.8)),
    "Jordan block of 4": driven(jordan(4, 0.8)),
    "Jordan block of 4, turned": driven(turned(jordan(4, 0.6, 1.0))),
    "Jordan block of 3 with others": driven(turned(np.asarray(linalg.block_diag(jordan(3, -0.7), 0.5, 0.2)))),
    "complex Jordan block": driven(np.kron(np.eye(2), 0.9 * np.array([[0.5, -0.8], [0.8, 0.5]])) + np.eye(4, k=2)),
    "companion of a cluster": driven(linalg.companion(np.poly([0.8, 0.8 + 1e-4, 0.8 - 1e-4, 0.3])), 1, 1),
    "companion of a double pair": driven(linalg.companion(np.poly([0.6 + 0.5j, 0.6 - 0.5j] * 2).real), 1, 1),
    "truncation of a cluster": cut(np.log(0.9) + 0.4j + np.array([0, 1, 2, 3j, 2 + 3j]) * 3e-4, 6),
    "truncation of a real cluster": cut(np.log(0.9) + np.array([0, 1, 2, 3, 4]) * 2e-3 + 0j, 4),
    "truncation next to a Jordan block": beside(1e-4),
    "truncation very close to a Jordan block": beside(1e-7),
    "well-conditioned": driven(np.diag([0.9, 0.5, -0.3])),
}

each_system = pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS.keys())


def rounding(found: PoleResidues, system: Realisation) -> float:
    """What float64 makes of the sum over slots, relative to the largest gain: large where residues cancel."""
    terms = np.linalg.norm(found.C, axis=0) * np.linalg.norm(found.B, axis=1) / -np.expm1(found.a.real)
    # the pole enters by its logarithm, |a| eps apart, and its distance from the circle divides
    slope = 1 + np.abs(found.a) / -np.expm1(found.a.real)
    return SOLVES + 4 * float(np.finfo(float).eps * (terms * slope).sum() / np.abs(response(*system).exact).max())


def exact_error(found: PoleResidues, system: Realisation, omega: np.ndarray) -> float:
    """Largest deviation from the dense system's transfer function relative to its largest gain, in 40 digits."""
    A, B, C = [mpmath.matrix(x.tolist()) for x in system]
    worst = largest = mpmath.mpf(0)
    with mpmath.workdps(40):
        lam = [mpmath.exp(mpmath.mpc(complex(a))) for a in found.a]
        for w in omega:
            z = mpmath.expj(-mpmath.mpf(float(w)))
            G = C * _solve(A, z, B)
            for i in range(C.rows):
                for j in range(B.cols):
                    got = mpmath.mpf(0)
                    for k, pole in enumerate(lam):
                        weight = mpmath.mpc(complex(found.C[i, k])) * mpmath.mpc(complex(found.B[k, j]))
                        got += weight / (1 - pole * z) + mpmath.conj(weight) / (1 - mpmath.conj(pole) * z)
                    worst, largest = max(worst, abs(G[i, j] - got / 2)), max(largest, abs(G[i, j]))
        return float(worst / largest)


def _solve(A, z, B):
    columns = [mpmath.lu_solve(mpmath.eye(A.rows) - z * A, B[:, j]) for j in range(B.cols)]
    return mpmath.matrix([[column[i] for column in columns] for i in range(A.rows)])


@each_system
def test_claimed_errors_are_the_exact_ones_and_the_choice_is_the_least(system):
    truth = response(*system)
    found = {way: function(*system, against=truth) for way, function in WAYS.items()}
    exact = {}
    for way, slots in found.items():
        assert slots.way == way
        if np.isfinite(slots.error):
            exact[way] = exact_error(slots, system, truth.omega)
            assert slots.error == pytest.approx(exact[way], rel=1e-6, abs=rounding(slots, system))
    chosen = choose(*system)
    assert chosen.error == min(slots.error for slots in found.values())
    best = min(exact, key=lambda way: exact[way])
    slack = rounding(chosen, system) + rounding(found[best], system)
    assert exact_error(chosen, system, truth.omega) <= exact[best] * (1 + 1e-6) + slack
    assert (chosen.a.real < 0).all()


@each_system
def test_the_choice_holds_between_the_frequencies_it_was_made_at(system):
    chosen = choose(*system)
    omega = np.sort(np.random.default_rng(0).uniform(0, np.pi, 12))
    # the deviation of rational functions of this order varies little between some sixty frequencies
    assert exact_error(chosen, system, omega) <= 10 * chosen.error + rounding(chosen, system)


@each_system
def test_the_plain_decomposition_loses_where_eigenvectors_are_ill_conditioned(system):
    condition = eigen(*system)[3]
    assert choose(*system).error <= direct(*system).error
    if condition > 1e8:
        assert choose(*system).error < direct(*system).error / 10


def test_the_systems_are_what_they_are_called():
    """Clusters of stored poles balance well, because their residues do not cancel; Jordan blocks do not."""
    for kind, system in SYSTEMS.items():
        well = kind in ("truncation of a cluster", "truncation of a real cluster", "well-conditioned")
        assert (eigen(*system)[3] > 1e6) != well, kind


def test_every_way_is_the_best_somewhere():
    """None of the three could be left out."""
    assert {choose(*system).way for system in SYSTEMS.values()} == set(WAYS)


def test_equal_errors_go_to_the_simplest_way():
    system = SYSTEMS["well-conditioned"]
    one, two = choose(*system), direct(*system)
    assert (one.way, one.error) == ("direct", two.error)


@each_system
def test_ways_give_one_slot_per_pair_or_real_pole_and_always_the_same(system):
    for function in WAYS.values():
        one, two = function(*system), function(*system)
        real = one.a.imag % np.pi == 0
        assert real.sum() + 2 * (~real).sum() == len(system[0])
        assert ((one.a.imag >= 0) & (one.a.imag <= np.pi)).all()
        for part in ("a", "B", "C"):
            np.testing.assert_array_equal(getattr(one, part), getattr(two, part))


@each_system
def test_diagonalise_returns_the_choice_where_the_eigenvectors_ask_for_it(system):
    A, B, C = system
    D = np.zeros((1, C.shape[0], B.shape[1]))
    found = diagonalise(A[None], B[None], C[None], D, np.array([len(A)]))
    expected = choose(A, B, C) if eigen(A, B, C)[3] > 1e6 else direct(A, B, C)
    assert found.method == (expected.way,)
    np.testing.assert_array_equal(found.system.a[0, : len(expected.a)], expected.a)
    np.testing.assert_array_equal(found.system.C[0, :, : len(expected.a)], expected.C)
