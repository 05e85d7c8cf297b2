"""S_C^T S_B: the small matrices against the large one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ssmtool.analyses._spectrum import interaction, maps, of_moment
from tests.analyses.mixers import permuted, random_diagonal, random_scalar


def as_complex(found):
    return np.array([complex(*value) for value in found.eigenvalues])


def sorted_complex(values):
    values = np.asarray(values, dtype=np.complex128)
    return values[np.lexsort((np.round(np.imag(values), 9), np.round(np.real(values), 9)))]


@pytest.mark.parametrize(("states", "width"), [(3, 12), (5, 8), (4, 4)])
def test_small_spectra_are_the_non_zero_part_of_the_large_ones(states, width):
    rng = np.random.default_rng(states)
    b, c = rng.normal(size=(2, states, width))
    found = interaction([(b, c)])
    whole = np.linalg.eigvals(c.T @ b)
    largest = whole[np.argsort(-np.abs(whole))][:states]
    np.testing.assert_allclose(sorted_complex(as_complex(found)), sorted_complex(largest), atol=1e-10)
    assert found.positive + found.negative + found.zero == states
    symmetric = np.linalg.eigvalsh((c.T @ b + b.T @ c) / 2)
    level = 1e-9 * np.abs(symmetric).max()
    assert found.inertia == (int((symmetric > level).sum()), int((symmetric < -level).sum()))
    assert found.symmetric_least == pytest.approx(symmetric.min())
    assert found.symmetric_most == pytest.approx(symmetric.max())


def test_known_eigenvalues():
    c = np.eye(3, 7)
    found = interaction([(np.diag([2.0, -1.0, -0.5]) @ c, c)])
    np.testing.assert_allclose(as_complex(found), [2.0, -1.0, -0.5])
    assert (found.positive, found.negative, found.least, found.most) == (1, 2, -1.0, 2.0)


def test_a_generic_layer_has_as_many_positive_as_negative_directions():
    mixer = random_diagonal(inner=20, states=4)
    assert interaction(maps(mixer)).inertia == (4, 4)


def test_groups_are_united():
    mixer = random_diagonal(inner=8, states=2, groups=2)
    apart = [interaction([pair]) for pair in maps(mixer)]
    both = interaction(maps(mixer))
    assert both.positive == sum(part.positive for part in apart)
    np.testing.assert_allclose(
        sorted_complex(as_complex(both)), sorted_complex(np.concatenate([as_complex(part) for part in apart]))
    )


@pytest.mark.parametrize("mixer", [random_diagonal(states=4), random_scalar(states=4)], ids=["diagonal", "scalar"])
def test_the_order_of_states_does_not_matter(mixer):
    first, second = (interaction(maps(m)) for m in (mixer, permuted(mixer, np.array([2, 0, 3, 1]))))
    np.testing.assert_allclose(sorted_complex(as_complex(first)), sorted_complex(as_complex(second)), atol=1e-12)
    assert first.inertia == second.inertia


def test_linearised_maps_are_the_convolution_of_a_constant_input():
    """With SiLU left out, an input that does not change passes the convolution as the sum of its taps."""
    mixer = random_scalar()
    u = np.random.default_rng(1).normal(size=mixer.in_b.shape[1])
    inner, wide = mixer.channels, mixer.in_b.shape[0]
    mixed = np.concatenate([mixer.in_x, mixer.in_b, mixer.in_c]) @ u
    settled = (mixer.conv * mixed[:, None]).sum(axis=1)
    B = np.concatenate([b @ u for b, _ in maps(mixer)])
    C = np.concatenate([c @ u for _, c in maps(mixer)])
    np.testing.assert_allclose(B, settled[inner : inner + wide])
    np.testing.assert_allclose(C, settled[inner + wide :])


def test_projections_and_norms_enter():
    scalar, rng = random_scalar(states=4), np.random.default_rng(2)
    project = rng.normal(size=(2, 2, 2, 4))
    reduced = maps(replace(scalar, project_b=project[0], project_c=project[1]))
    for g, ((b, c), (small_b, small_c)) in enumerate(zip(maps(scalar), reduced, strict=True)):
        np.testing.assert_allclose(small_b, project[0, g] @ b)
        np.testing.assert_allclose(small_c, project[1, g] @ c)
    diagonal, weight = random_diagonal(), np.array([1.0, 2.0, 3.0])
    (b, c), (scaled, same) = maps(diagonal)[0], maps(replace(diagonal, b_norm=weight))[0]
    np.testing.assert_allclose(scaled, weight[:, None] * b)
    np.testing.assert_allclose(same, c)


def test_the_moment_of_white_input_is_the_matrix_of_the_weights():
    rng = np.random.default_rng(3)
    b, c = rng.normal(size=(2, 4, 9))
    by_weights, by_moment = interaction([(b, c)]), of_moment((c @ b.T)[None])
    np.testing.assert_allclose(sorted_complex(as_complex(by_moment)), sorted_complex(as_complex(by_weights)))
    assert (by_moment.positive, by_moment.negative) == (by_weights.positive, by_weights.negative)
