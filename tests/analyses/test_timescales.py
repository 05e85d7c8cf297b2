"""Half-lives and horizons of systems whose decay is known."""

from __future__ import annotations

import numpy as np
import pytest

from ssmtool.analyses import timescales
from ssmtool.analyses._numbers import quantiles
from tests.analyses.mixers import constant, permuted, random_diagonal, random_scalar, shown, stream
from tests.lti.samples import dense, diagonal, ring


def of_system(system):
    observer = timescales.start()
    observer.linear("m", system)
    return observer.result()


def of_mixer(mixer, x=None):
    observer = timescales.start()
    observer.selective("m", mixer)
    if x is not None:
        observer.see(shown(mixer, x))
    return observer.result()


def test_a_mode_that_halves_every_eight_steps():
    row = of_system(diagonal([-np.log(2) / 8 + 0.3j], [1.0], [1.0])).layers[0]
    assert row.half_life.median == pytest.approx(8)
    assert row.radius == pytest.approx(2 ** (-1 / 8))
    assert row.margin == pytest.approx(1 - 2 ** (-1 / 8))
    assert row.horizon is not None
    assert row.faster_than_a_step == 0
    assert sum(row.histogram) == pytest.approx(1)


def test_modes_that_do_nothing_have_no_say():
    row = of_system(diagonal([-0.1, -1e-6], [1.0, 1.0], [1.0, 0.0])).layers[0]
    assert row.modes == 1
    assert row.half_life.largest == pytest.approx(np.log(2) / 0.1)


def test_an_unstable_layer_is_named():
    section = of_system(diagonal([0.01, -1.0], [1.0, 1.0], [1.0, 1.0]))
    row = section.layers[0]
    assert row.margin < 0
    assert row.half_life.largest == np.inf
    assert "does not forget" in section.verdicts[0].text


def test_dense_systems_have_the_half_lives_of_their_eigenvalues():
    system = dense(1, 4)
    row = of_system(system).layers[0]
    moduli = np.abs(np.linalg.eigvals(system.A[0]))
    assert row.radius == pytest.approx(moduli.max())
    assert row.half_life.smallest == pytest.approx(np.log(0.5) / np.log(moduli.min()))


def test_fast_modes_are_called_a_local_filter():
    section = of_system(diagonal([-3.0, -2.0], [1.0, 1.0], [1.0, 1.0], real=True))
    assert section.layers[0].faster_than_a_step == 1
    assert "local filter" in section.verdicts[0].text


def test_without_tokens_the_step_of_dt_bias_is_used_and_said():
    section = of_mixer(constant([[0.5, 2.0]], step=0.1))
    row = section.layers[0]
    assert row.source == "dt_bias alone"
    assert row.half_life.smallest == pytest.approx(np.log(2) / 0.2)
    assert row.half_life.largest == pytest.approx(np.log(2) / 0.05)
    assert "--tokens" in section.missing[0]


def test_with_tokens_the_attained_decay_agrees_where_the_step_is_constant():
    mixer = constant([[0.5, 2.0], [1.0, 4.0]], step=0.1)
    seen, alone = of_mixer(mixer, stream(width=2)), of_mixer(mixer)
    row = seen.layers[0]
    assert (row.source, seen.missing) == ("tokens", ())
    bin_width = 10**0.05  # half a bin of the histogram of steps
    for part in ("smallest", "median", "largest"):
        exact = getattr(alone.layers[0].half_life, part)
        assert exact / bin_width <= getattr(row.half_life, part) <= exact * bin_width
    assert row.radius == pytest.approx(np.exp(-0.05))


@pytest.mark.parametrize("mixer", [random_diagonal(), random_scalar(width=4)], ids=["diagonal", "scalar"])
def test_attained_half_lives_against_all_steps(mixer):
    x = stream(length=64)
    row = of_mixer(mixer, x).layers[0]
    dt = shown(mixer, x).passes["m"].trace.dt.numpy()
    rate = np.exp(mixer.a_log).reshape(dt.shape[2], -1)
    life = np.log(2) / (dt[..., None] * rate)
    exact = quantiles(life)
    for part in ("tenth", "median", "ninetieth"):
        assert getattr(row.half_life, part) == pytest.approx(getattr(exact, part), rel=0.13)
    assert row.faster_than_a_step == pytest.approx((life < 1).mean(), abs=0.03)
    assert row.radius == pytest.approx(np.exp(-(dt.mean((0, 1))[:, None] * rate).min()))


def test_the_order_of_states_does_not_matter():
    mixer, x = random_diagonal(), stream()
    assert of_mixer(mixer, x).layers == of_mixer(permuted(mixer, np.array([2, 0, 1])), x).layers
    system = ring(1, 4)
    order = [2, 0, 3, 1]
    other = diagonal(system.a[0, order], system.B[0, order], system.C[0][:, order])
    first, second = of_system(system).layers[0], of_system(other).layers[0]
    assert first.half_life == second.half_life
    assert first.horizon == second.horizon
