"""Which counting the eigenvalues leave room for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ssmtool.analyses import state_tracking
from tests.analyses.mixers import constant, random_diagonal, random_scalar, shown, stream
from tests.lti.samples import diagonal


def of_system(system):
    observer = state_tracking.start()
    observer.linear("m", system)
    return observer.result()


def of_mixer(mixer, x=None):
    observer = state_tracking.start()
    observer.selective("m", mixer)
    if x is not None:
        observer.see(shown(mixer, x))
    return observer.result()


@pytest.mark.parametrize(
    ("angle", "parity", "modular"),
    [(0.0, False, False), (2 * np.pi, False, False), (np.pi, True, False), (3 * np.pi, True, False), (2.1, True, True)],
)
def test_what_an_eigenvalue_leaves_room_for(angle, parity, modular):
    section = of_system(diagonal([-0.01 + 1j * angle], [1.0], [1.0]))
    assert (section.parity, section.modular) == (parity, modular)
    row = section.layers[0]
    assert row.turning_half_life == pytest.approx(np.log(2) / 0.01 if parity else 0.0)
    text = " ".join(verdict.text for verdict in section.verdicts)
    assert ("cannot learn parity" in text) == (not parity)
    assert ("no power of two" in text) == (parity and not modular)


def test_a_model_that_computes_parity_of_positions_has_a_negative_eigenvalue():
    """x[k] = -x[k-1] + u[k] on ones is 1, 0, 1, 0, ...: the parity of the position."""
    x, states = 0.0, []
    for _ in range(6):
        x = -x + 1.0
        states.append(x)
    assert states == [1, 0, 1, 0, 1, 0]
    section = of_system(diagonal([1j * np.pi], [1.0], [1.0], real=True))
    assert section.parity
    assert section.layers[0].negative == 1
    assert section.layers[0].turning_half_life == np.inf


@pytest.mark.parametrize("mixer", [random_diagonal(), random_scalar(width=4)], ids=["diagonal", "scalar"])
def test_selective_layers_stay_between_zero_and_one(mixer):
    for section in (of_mixer(mixer), of_mixer(mixer, stream())):
        row = section.layers[0]
        assert not section.parity
        assert not section.modular
        assert 0 <= row.smallest <= row.largest <= 1
        assert "flip-flop" in section.verdicts[0].text


def test_attained_decays_are_the_extremes_of_the_data():
    mixer, x = random_diagonal(), stream()
    dt = shown(mixer, x).passes["m"].trace.dt.numpy()
    decay = np.exp(-dt[..., None] * np.exp(mixer.a_log))
    row = of_mixer(mixer, x).layers[0]
    assert row.smallest == pytest.approx(decay.min())
    assert row.largest == pytest.approx(decay.max())
    low, high = decay.min((0, 1)), decay.max((0, 1))
    assert row.latching == pytest.approx(((low < 0.1) & (high > 0.9)).mean())
    assert row.spread[-1] == pytest.approx((high - low).max())


def test_a_layer_that_holds_and_resets_latches_and_one_of_constant_step_does_not():
    still = constant([[1.0]], step=0.01)
    switch = replace(
        still,
        in_x=np.array([[1.0, 0.0]]),
        in_x_bias=np.array([0.0]),
        x_dt=np.ones((1, 1, 1)),
        dt_weight=np.full((1, 1, 1), 40.0),
        dt_bias=np.array([-10.0]),
    )
    x = stream(width=2)
    assert of_mixer(still, x).layers[0].latching == 0
    assert of_mixer(switch, x).layers[0].latching == 1
    assert any("hardly any mode" in verdict.text for verdict in of_mixer(still, x).verdicts)
