"""Models of finite impulse responses against dense Hankel matrices and the systems the lags came from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch

from ssmtool.lti.hankel_matrix import HankelMatrix
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.kernel_residues import fit_residues, lag_error
from ssmtool.lti.realise import Realisation
from ssmtool.lti.response_error import response_error
from tests.lti.samples import diagonal, mixed, ring

SHAPES = [(1, 1), (2, 3)]  # (p, m)


def lags_of(system, length: int) -> np.ndarray:
    """(p, m, L) without D."""
    return impulse_response(replace(system, D=0 * system.D), length)[0]


def random_lags(p: int, m: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((p, m, length)) * 0.97 ** np.arange(length)


def dense_hankel(h: np.ndarray) -> np.ndarray:
    """[h_{i+j}], i, j < L, with zeros beyond the last lag, block by block from the definition."""
    p, m, length = h.shape
    H = np.zeros((length, p, length, m))
    for i in range(length):
        for j in range(length - i):
            H[i, :, j] = h[:, :, i + j]
    return H.reshape(length * p, length * m)


@pytest.mark.parametrize(("p", "m"), SHAPES)
def test_era_finds_the_system_behind_the_lags(p, m):
    system = mixed(1, 5, m, p, seed=3)  # two real poles and three pairs: 8 states
    h = lags_of(system, 90)
    variants = Realisation(h, 24).era(8)
    truth = lags_of(system, 400)  # long after the last lag that was shown
    plain, moved = variants[0]
    assert moved == 0
    # the least singular value that the shift is fitted with is about 1e-4 of the largest
    np.testing.assert_allclose(impulse_response(plain, 400)[0], truth, rtol=0, atol=1e-8 * np.abs(truth).max())


@pytest.mark.parametrize(("p", "m"), SHAPES)
def test_balanced_finds_a_system_whose_response_has_ended(p, m):
    system = ring(1, 3, m, p, seed=1)
    system.a.real[:] = np.minimum(system.a.real, -0.1)  # e^-40 after 400 lags
    h = lags_of(system, 400)
    found = Realisation(h, 20).balanced(6)
    np.testing.assert_allclose(impulse_response(found, 400)[0], h, rtol=0, atol=1e-8 * np.abs(h).max())


@pytest.mark.parametrize(("p", "m", "length"), [(1, 1, 100), (2, 3, 40), (1, 1, 700), (2, 1, 300)])
def test_singular_values_are_those_of_the_dense_matrix(p, m, length):
    """The last two are too large to be formed: block Lanczos iteration on FFT products."""
    h = random_lags(p, m, length)
    found = Realisation(h, 20)
    truth = np.asarray(scipy.linalg.svdvals(dense_hankel(h)))
    assert found.complete == (length * max(p, m) <= 512)
    np.testing.assert_allclose(found.sigma[:20], truth[:20], rtol=1e-10)
    sums = truth[::-1].cumsum()[::-1]
    assert (found.tail[:20] >= sums[:20] * (1 - 1e-10)).all()
    if found.complete:
        np.testing.assert_allclose(found.tail[:20], sums[:20], rtol=1e-10)


def test_equal_singular_values_are_all_found():
    """An impulse at lag k has k + 1 singular values 1: more than one Lanczos vector alone would see."""
    h = np.zeros((1, 1, 900))
    h[0, 0, 2] = 1.0
    found = Realisation(h, 12)
    np.testing.assert_allclose(found.sigma[:3], 1.0, rtol=1e-12)
    assert (found.sigma[3:] < 1e-12).all()
    assert found.usable == 3


@pytest.mark.parametrize(("p", "m"), SHAPES)
def test_products_by_fft_are_those_of_the_matrix(p, m):
    h = random_lags(p, m, 33)
    H = HankelMatrix(torch.from_numpy(h), 33, 33)
    rng = np.random.default_rng(1)
    X, Y = rng.standard_normal((33, m, 2)), rng.standard_normal((33, p, 2))
    dense = dense_hankel(h)
    np.testing.assert_allclose(H.dense().numpy(), dense)
    np.testing.assert_allclose(
        H.times(torch.from_numpy(X)).numpy().reshape(-1, 2), dense @ X.reshape(-1, 2), atol=1e-12
    )
    np.testing.assert_allclose(
        H.transposed_times(torch.from_numpy(Y)).numpy().reshape(-1, 2), dense.T @ Y.reshape(-1, 2), atol=1e-12
    )
    assert float(H.energy()) == pytest.approx(np.square(dense).sum(), rel=1e-12)


@pytest.mark.parametrize(("p", "m"), SHAPES)
@pytest.mark.parametrize("length", [50, 300])
def test_the_error_of_balanced_truncation_lies_between_its_bounds(p, m, length):
    h = random_lags(p, m, length)
    found = Realisation(h, 16)
    truth = scipy.linalg.svdvals(dense_hankel(h))
    for order in (1, 4, 11):
        model = found.balanced(order)
        assert (model.a.real < 0).all()
        error = impulse_response(model, 1 << 14)[0]
        error[:, :, :length] -= h
        gain = np.linalg.norm(np.fft.rfft(error).transpose(2, 0, 1), ord=2, axis=(1, 2)).max()
        assert truth[order] * (1 - 1e-6) <= gain <= 2 * found.tail[order]
        measured = response_error(model, h)
        # both are attained at a frequency; the grid of 2^13 is within 1e-3 of a peak between its points
        assert measured.hinf == pytest.approx(gain, rel=1e-3)
        assert measured.h2 == pytest.approx(np.linalg.norm(error), rel=1e-9)
        assert measured.lags == pytest.approx(np.linalg.norm(error[:, :, :length]), rel=1e-9)


def test_poles_outside_the_circle_are_moved_in_or_left_out():
    """Lags that grow: no stable model continues them."""
    h = 1.01 ** np.arange(60.0)[None, None]
    variants = Realisation(h, 8).era(1)
    assert {moved for _, moved in variants} == {0, 1}
    for system, _ in variants:
        assert (system.a.real < 0).all()


@pytest.mark.parametrize(("p", "m"), SHAPES)
def test_a_response_that_is_zero_is_a_system_without_states(p, m):
    h = np.zeros((p, m, 20))
    found = Realisation(h, 4)
    assert found.usable == 0
    for model in (found.balanced(0), found.era(3)[0][0]):
        measured = response_error(model, h)
        assert (measured.lags, measured.beyond, measured.hinf) == (0, 0, 0)


def test_residues_of_known_poles_are_recovered():
    system = diagonal([-0.05 + 0.3j, -0.2 + 1.1j, -0.4], [1, 1, 1], [1 - 2j, 0.5j, 3], D=[[0.7]])
    h = impulse_response(system, 64)[0]
    start = replace(system, C=0 * system.C)
    best = fit_residues(start, h)[0]
    np.testing.assert_allclose(best.C[0, 0, :2], system.C[0, 0, :2], atol=1e-11)
    assert best.C[0, 0, 2].real == pytest.approx(3, abs=1e-11)
    assert lag_error(best, h) <= 1e-12 * lag_error(start, h)
