"""Scales, products, real refits and conditioning of layers where they are known."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ssmtool.analyses import parametrisation
from ssmtool.analyses._real_refit import LENGTH, real_refit_error
from tests.analyses.mixers import permuted, random_diagonal, random_scalar, shown, stream
from tests.lti.samples import batch, dense, diagonal, mixed


def of_system(system):
    observer = parametrisation.start()
    observer.linear("m", system)
    return observer.result()


def of_mixer(mixer, *streams):
    observer = parametrisation.start()
    observer.selective("m", mixer)
    for x in streams:
        observer.see(shown(mixer, x))
    return observer.result()


def scale(row, name):
    return next(s for s in row.scales if s.matrix == name)


def test_scales_are_singular_values():
    mixer = replace(random_diagonal(width=4), in_z=None, out=3 * np.eye(4, 6))
    row = of_mixer(mixer).layers[0]
    assert scale(row, "out").spectral_norm == pytest.approx(3)
    assert scale(row, "out").stable_rank == pytest.approx(4)
    assert scale(row, "in_x").spectral_norm == pytest.approx(np.linalg.norm(mixer.in_x, 2))
    assert "in_z" not in {s.matrix for s in row.scales}
    system = dense(1, 5, 2, 2)
    assert scale(of_system(system).layers[0], "A").spectral_norm == pytest.approx(np.linalg.norm(system.A[0], 2))


def test_products_and_idle_modes():
    system = diagonal([-0.1, -0.2, -0.3, -0.4], [2.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1e-3, 5.0])
    section = of_system(system)
    row = section.layers[0]
    assert row.product.largest == 1
    assert row.product.median in (5e-4, 0.5)
    assert row.idle == 0.5
    assert "contribute little" in section.verdicts[0].text


def test_the_spread_of_a_selective_layer_is_that_of_its_rows():
    mixer = random_scalar()
    row = of_mixer(mixer).layers[0]
    product = np.linalg.norm(mixer.in_b, axis=1) * np.linalg.norm(mixer.in_c, axis=1)
    relative = (product.reshape(2, 5) / product.reshape(2, 5).max(axis=1, keepdims=True)).ravel()
    assert row.product.smallest == pytest.approx(relative.min())
    assert row.idle == (relative < 0.01).mean()


def test_responses_of_real_poles_need_no_complex_ones():
    real = diagonal([-0.02, -0.3], [1.0, 1.0], [1.0, -2.0])
    assert real_refit_error(real)[0] < 0.05  # the dictionary's poles are near, not equal
    assert of_system(real).layers[0].real_refit is None  # all its poles are real already


def test_an_oscillation_that_lasts_is_beyond_as_many_real_poles():
    system = diagonal([-0.01 + 0.5j, -0.02 + 1.0j], [1.0, 1.0], [1.0, 1.0])
    section = of_system(system)
    row = section.layers[0]
    assert row.real_refit is not None
    assert row.real_refit.median > 0.5
    assert "complex poles are needed" in section.verdicts[0].text


def test_more_real_poles_never_fit_worse():
    a, c = [-0.05 + 0.3j], [1.0]
    errors = []
    for copies in (1, 2, 4, 8):  # the same response, with room for more poles
        system = diagonal(a * copies, [1.0] * copies, np.array(c * copies) / copies)
        errors.append(real_refit_error(system)[0])
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(errors))
    assert errors[-1] < errors[0]


def test_an_unstable_system_has_no_refit_and_an_alternating_one_is_real():
    unstable = diagonal([0.01 + 0.3j], [1.0], [1.0])
    assert np.isinf(real_refit_error(unstable)[0])
    assert of_system(batch(unstable, unstable)).layers[0].real_refit is None
    alternating = diagonal([-8 / LENGTH + 1j * np.pi], [1.0], [1.0])
    assert real_refit_error(alternating)[0] < 0.05


def test_conditioning_of_two_modes_in_closed_form():
    """Two real modes scaled to unit energy have the Gramian [[1, c], [c, 1]]: condition (1 + c) / (1 - c)."""
    x, y = 0.9, 0.5
    c = np.sqrt((1 - x * x) * (1 - y * y)) / (1 - x * y)
    row = of_system(diagonal(np.log([x, y]), [3.0, 0.1], [0.2, 7.0], real=True)).layers[0]
    assert row.condition_reach == pytest.approx((1 + c) / (1 - c))
    assert row.condition_observe == pytest.approx((1 + c) / (1 - c))


def test_conditioning_on_tokens_is_that_of_the_moments():
    mixer, first, second = random_diagonal(), stream(2, 30), stream(3, 30, seed=1)
    row = of_mixer(mixer, first, second).layers[0]
    B = np.concatenate([shown(mixer, x).passes["m"].trace.B.numpy().reshape(-1, 3) for x in (first, second)])
    moment = B.T @ B
    scaled = moment / np.sqrt(np.outer(np.diag(moment), np.diag(moment)))
    assert row.condition_reach == pytest.approx(np.linalg.cond(scaled))


def test_a_at_its_initial_value_has_not_moved():
    mixer = random_diagonal()
    initial = replace(mixer, a_log=np.tile(np.log([1.0, 2.0, 3.0]), (6, 1)))
    assert of_mixer(initial).layers[0].a_moved == pytest.approx(0)
    assert of_mixer(replace(initial, a_log=initial.a_log + 0.3)).layers[0].a_moved == pytest.approx(0.3)
    assert of_mixer(random_scalar()).layers[0].a_moved is None


def test_the_order_of_states_does_not_matter():
    mixer, x = random_scalar(width=4), stream()
    first, second = (of_mixer(m, x).layers[0] for m in (mixer, permuted(mixer, np.arange(5)[::-1])))
    assert first.product.median == pytest.approx(second.product.median)
    assert first.condition_observe == pytest.approx(second.condition_observe)


def test_mimo_layers_have_no_refit():
    row = of_system(mixed(2, 4, 2, 2)).layers[0]
    assert row.real_refit is None
    assert row.condition_reach is not None


def test_large_matrices_have_the_same_norm_by_iteration():
    rng = np.random.default_rng(0)
    mixer = replace(random_diagonal(width=4), out=rng.normal(size=(300, 400)), in_z=np.zeros((300, 300)))
    row = of_mixer(mixer).layers[0]
    assert scale(row, "out").spectral_norm == pytest.approx(np.linalg.norm(mixer.out, 2), rel=1e-9)
    assert (scale(row, "in_z").spectral_norm, scale(row, "in_z").stable_rank) == (0, 0)
