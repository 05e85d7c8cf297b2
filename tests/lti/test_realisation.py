"""Both kinds of realisation against the dense definition: powers, resolvent, driven states, dual."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.minimal import minimal
from ssmtool.lti.realisation import Realisation, of_dense, of_minimal, of_slots, settling
from ssmtool.lti.systems import System
from tests.lti.samples import dense, diagonal, mixed, real_stored, ring, slots

CPU, ALL = torch.device("cpu"), slice(None)

CASES: dict[str, tuple[System, Realisation]] = {}
for _name, _system in {
    "complex": ring(2, 4, 2, 3),
    "mixed": mixed(2, 4, 2, 3),
    "real": real_stored(2, 5, 2, 3),
    "equal poles": slots(ring(2, 3, 2, 3), [0, 1, 1, 2]),
}.items():
    CASES[f"{_name}, slots"] = (_system, of_slots(_system, ALL, CPU))
    CASES[f"{_name}, minimal"] = (_system, of_minimal(minimal(_system), ALL, CPU))
_dense = dense(2, 5, 2, 3)
CASES["dense"] = (_dense, of_dense(_dense, ALL, CPU))

each = pytest.mark.parametrize("kind", CASES)
# sums of a few products; a pole's power carries its angle's rounding times the number of steps
CLOSE = {"rtol": 0, "atol": 1e-11}


def response(realisation: Realisation, length: int) -> np.ndarray:
    h = [realisation.C @ realisation.power(k, realisation.B) for k in range(length)]
    return torch.stack(h, dim=-1).numpy()


@each
def test_powers_give_the_impulse_response(kind):
    system, realisation = CASES[kind]
    h = impulse_response(system, 40)
    h[..., 0] -= system.D
    np.testing.assert_allclose(response(realisation, 40), h, **CLOSE)
    np.testing.assert_allclose(response(realisation.dual(), 40), h.transpose(0, 2, 1, 3), **CLOSE)


@each
def test_the_resolvent_sums_the_powers(kind):
    system, realisation = CASES[kind]
    omega = torch.tensor([[0.0, 0.3, 3.0]] * 2, dtype=torch.float64)
    h = impulse_response(system, 4096)
    h[..., 0] -= system.D
    turn = np.exp(-1j * omega[0].numpy()[:, None] * np.arange(4096))
    G = np.einsum("spml,fl->sfpm", h, turn)
    got = (realisation.C.to(torch.complex128)[:, None] @ realisation.resolvent(omega)).numpy()
    np.testing.assert_allclose(got, G, rtol=0, atol=1e-10)


@each
def test_driven_states_give_the_convolution(kind):
    system, realisation = CASES[kind]
    u = np.random.default_rng(0).standard_normal((2, 3, 20, 2))
    h = impulse_response(system, 20)
    h[..., 0] -= system.D
    y = np.zeros((2, 3, 20, 3))
    for lag in range(20):
        y[:, :, lag:] += np.einsum("spm,sklm->sklp", h[..., lag], u[:, :, : 20 - lag])
    x = realisation.states(torch.from_numpy(u))
    np.testing.assert_allclose((x @ realisation.C.mT[:, None]).numpy(), y, **CLOSE)


@each
def test_outputs_through_a_weight(kind):
    _, realisation = CASES[kind]
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 1, 3)))
    np.testing.assert_allclose(realisation.seen_through(weight).C.numpy(), (weight @ realisation.C).numpy(), **CLOSE)


def test_a_system_settles_when_its_slowest_pole_has():
    slow = diagonal([-1e-3 + 1j, -0.5], [1, 1], [1, 1])
    steps = settling(of_slots(slow, ALL, CPU))
    assert np.exp(-1e-3 * steps) < 1e-16
    assert steps & (steps - 1) == 0
    assert settling(of_dense(dense(1, 3, radius=1 - 1e-17), ALL, CPU)) > 0
