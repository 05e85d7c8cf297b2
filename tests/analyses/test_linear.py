"""Delays of impulse responses: closed forms against sums over the response itself."""

from __future__ import annotations

import numpy as np
import pytest

from ssmtool.analyses._linear import horizon, mean_delay
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.norms import to_dense
from ssmtool.lti.systems import DiagonalSystem, System, without_feedthrough
from tests.lti.samples import dense, diagonal, mixed, real_stored, ring

SYSTEMS: dict[str, System] = {
    "SISO": ring(4, 5),
    "MIMO": mixed(2, 5, 2, 3),
    "real-stored": real_stored(3, 6),
    "dense": dense(2, 6, 2, 2),
    "dense form of a diagonal one": to_dense(ring(2, 4)),
}


def energies(system: System) -> np.ndarray:
    """(S, L) energy of the impulse response at every step, long enough for what is left to be rounding."""
    return np.square(impulse_response(without_feedthrough(system), 20000)).sum(axis=(1, 2))


@pytest.mark.parametrize("name", SYSTEMS)
def test_against_the_impulse_response(name):
    system = SYSTEMS[name]
    energy = energies(system)
    total = energy.sum(axis=1)
    np.testing.assert_allclose(mean_delay(system), energy @ np.arange(energy.shape[1]) / total, rtol=1e-8)
    tail = np.cumsum(energy[:, ::-1], axis=1)[:, ::-1]
    for share in (0.5, 0.01):
        found = horizon(system, share).astype(int)
        for s, K in enumerate(found):
            assert tail[s, K] <= share * total[s] * (1 + 1e-9)
            assert K == 0 or tail[s, K - 1] > share * total[s] * (1 - 1e-9)


@pytest.mark.parametrize("modulus", [0.3, 0.9, 0.999])
def test_one_real_pole(modulus):
    system = diagonal([np.log(modulus)], [1.0], [1.0], real=True)
    q = modulus**2
    assert mean_delay(system)[0] == pytest.approx(q / (1 - q))
    assert horizon(system)[0] == np.ceil(np.log(0.01) / np.log(q))


def test_feedthrough_plays_no_part_and_nothing_has_no_delay():
    silent = diagonal([-0.1], [1.0], [0.0], D=[[5.0]])
    assert (mean_delay(silent)[0], horizon(silent)[0]) == (0.0, 0.0)


def test_unstable_systems_never_forget():
    stable = ring(2, 3)
    a = stable.a.copy()
    a[0, 0] = 0.001
    system = DiagonalSystem(a, stable.B, stable.C, stable.D)
    assert np.isinf(horizon(system)[0])
    assert np.isinf(mean_delay(system)[0])
    assert np.isfinite([horizon(system)[1], mean_delay(system)[1]]).all()
