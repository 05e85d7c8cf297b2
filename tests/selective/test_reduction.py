"""Projection, selection, mixing of C and refit against closed forms, exhaustive search and exact cases."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssmtool.errors import CalibrationError, ReductionError, UsageError
from ssmtool.selective.choices import Select
from ssmtool.selective.forward import forward
from ssmtool.selective.measure import Difference
from ssmtool.selective.mixers import ScalarMixer
from ssmtool.selective.mixing import eliminate_mixed, mix_for
from ssmtool.selective.projection import balanced_projectors, projected
from ssmtool.selective.refit import RefitOptions, refit
from ssmtool.selective.selection import Selection, dropped_energy, keep_states, select
from ssmtool.selective.spectrum import calibrated_spectrum, entropy_size, static_values
from ssmtool.selective.statistics import Statistics, states
from tests.selective.mixers import MIXERS, diagonal, inputs, run_on, scalar
from tests.selective.moments import measured

X = inputs(batch=6, length=40)
EVERY = pytest.mark.parametrize("name", MIXERS)
MAMBA2 = pytest.mark.parametrize("name", [n for n in MIXERS if n.startswith("mamba2")])


def difference(original, smaller, x: torch.Tensor = X) -> Difference:
    found = Difference()
    found.update((run_on(original),), (run_on(smaller),), x)
    return found


@EVERY
def test_values_are_square_roots_of_the_eigenvalues_of_the_product(name: str) -> None:
    moments, _ = measured(run_on(MIXERS[name]), X)
    found = calibrated_spectrum(MIXERS[name], moments)
    for values, reach, observe in zip(found.values, moments.reachability, moments.observability, strict=True):
        eigenvalues = np.sort(np.linalg.eigvals(reach @ observe).real)[::-1]
        np.testing.assert_allclose(values**2, eigenvalues, rtol=1e-6, atol=1e-10 * eigenvalues[0])
    assert found.errors[0] == 1
    assert found.errors[-1] == 0
    assert (np.diff(found.errors) <= 0).all()
    assert found.size(0.0) == MIXERS[name].states
    assert found.size(1.0) == 0


@MAMBA2
def test_values_do_not_change_with_the_basis_of_the_state(name: str) -> None:
    mixer = MIXERS[name]
    rng = np.random.default_rng(3)
    moments, _ = measured(run_on(mixer), X)
    T = [np.eye(mixer.states) + 0.3 * rng.normal(size=(mixer.states, mixer.states)) for _ in range(mixer.groups)]
    changed = replace(
        moments,
        reachability=np.stack([t @ w @ t.T for t, w in zip(T, moments.reachability, strict=True)]),
        observability=np.stack(
            [np.linalg.inv(t).T @ w @ np.linalg.inv(t) for t, w in zip(T, moments.observability, strict=True)]
        ),
    )
    np.testing.assert_allclose(
        calibrated_spectrum(mixer, changed).values, calibrated_spectrum(mixer, moments).values, rtol=1e-8
    )


@EVERY
def test_values_do_not_change_with_the_order_of_the_states(name: str) -> None:
    mixer = MIXERS[name]
    order = np.random.default_rng(1).permutation(mixer.states)
    shuffled = keep_states(mixer, Selection(np.tile(order, (mixer.groups, 1))))
    a, b = (calibrated_spectrum(m, measured(run_on(m), X)[0]) for m in (mixer, shuffled))
    # values are roots of eigenvalues, which are right to eps of the largest: one that is zero comes out as sqrt(eps)
    np.testing.assert_allclose(a.values, b.values, rtol=1e-7, atol=1e-7 * a.values.max())
    np.testing.assert_allclose(a.static, b.static, rtol=1e-8)
    assert difference(mixer, shuffled).out_error < 1e-12


@MAMBA2
def test_projection_to_all_states_changes_nothing(name: str) -> None:
    mixer = MIXERS[name]
    moments, _ = measured(run_on(mixer), X)
    smaller = projected(mixer, moments, mixer.states)
    np.testing.assert_allclose(
        smaller.project_b @ smaller.project_c.transpose(0, 2, 1),
        np.tile(np.eye(mixer.states), (mixer.groups, 1, 1)),
        atol=1e-9,
    )
    assert difference(mixer, smaller).out_error < 1e-9


def test_projection_is_exact_where_the_data_uses_few_directions() -> None:
    """B of rank 2 in every group: two states do what five did."""
    mixer = scalar()
    rng = np.random.default_rng(5)
    rank = 2
    thin = [rng.normal(size=(mixer.states, rank)) for _ in range(mixer.groups)]
    moments, _ = measured(run_on(mixer), X)
    reach = np.stack([t @ t.T for t in thin])
    project_b, project_c = balanced_projectors(replace(moments, reachability=reach), rank)
    identity = project_c.transpose(0, 2, 1) @ project_b
    for t, p in zip(thin, identity, strict=True):
        np.testing.assert_allclose(p @ t, t, atol=1e-9)


@MAMBA2
def test_measured_error_of_a_projection_is_the_exact_formula(name: str) -> None:
    """E[C^T (I - Pi) G (I - Pi)^T C] summed over all steps, against two runs of the scan."""
    mixer = MIXERS[name]
    moments, trace = measured(run_on(mixer), X)
    smaller = projected(mixer, moments, 2)
    columns = run_on(mixer).out.square().sum(0)
    lost = 0.0
    rest = np.eye(mixer.states) - smaller.project_c.transpose(0, 2, 1) @ smaller.project_b
    for t, h in states(run_on(mixer), trace):
        weight = (trace.gain[:, t].square() * columns).unflatten(-1, (mixer.groups, -1))
        error = torch.einsum("bgn,gnm,bgem->bge", trace.C[:, t], torch.as_tensor(rest), h)
        lost += (weight * error.square()).sum().item()
    assert difference(mixer, smaller).scan == pytest.approx(lost, rel=1e-9)


def test_mamba1_cannot_be_projected() -> None:
    moments, _ = measured(run_on(diagonal()), X)
    with pytest.raises(ReductionError, match="cannot be mixed"):
        projected(diagonal(), moments, 2)


def test_too_few_tokens_say_how_many_are_needed() -> None:
    mixer = scalar()
    moments, _ = measured(run_on(mixer), inputs(batch=1, length=4))
    with pytest.raises(CalibrationError, match=r"4 calibration tokens .* 5 states .* At least 10 tokens"):
        calibrated_spectrum(mixer, moments)


@EVERY
@pytest.mark.parametrize("how", [Select.elimination, Select.ghost, Select.magnitude, Select.random])
def test_predicted_loss_of_a_selection_is_what_the_scan_loses(name: str, how: Select) -> None:
    mixer = MIXERS[name]
    moments, _ = measured(run_on(mixer), X)
    selection = select(mixer, moments, 3, how)
    assert selection.kept.shape == (mixer.groups, 3)
    if mixer.states == 5 and name == "mamba1-norms":
        return  # norms are taken over the kept states alone: the loss is that of dropping, not of the new norm
    found = difference(mixer, keep_states(mixer, selection))
    assert found.scan_error == pytest.approx(np.sqrt(selection.loss), rel=1e-6)


def test_mixing_is_the_least_squares_solution() -> None:
    rng = np.random.default_rng(0)
    n, kept = 4, np.array([0, 2])
    c, h = rng.normal(size=(200, n)), rng.normal(size=(200, n)) @ rng.normal(size=(n, n))
    coupling = np.einsum("tc,ti,tk,tj->cikj", c, h, c, h)
    design = np.concatenate([c * h[:, [i]] for i in kept], axis=1)
    solution, residual, *_ = np.linalg.lstsq(design, (c * h).sum(1), rcond=None)
    found = mix_for(coupling, kept)
    np.testing.assert_allclose(found.mix, solution.reshape(2, n), rtol=1e-6, atol=1e-8)
    assert found.loss == pytest.approx(residual[0], rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_backward_elimination_is_close_to_the_exhaustive_best(seed: int) -> None:
    moments, _ = measured(run_on(diagonal(seed)), X)
    assert moments.coupling is not None
    coupling = moments.coupling[0]
    best = min(mix_for(coupling, np.array(kept)).loss for kept in itertools.combinations(range(5), 3))
    found = eliminate_mixed(coupling, 3).loss
    assert best <= found <= 2 * best


def test_mixing_loses_less_than_the_same_states_alone() -> None:
    moments, _ = measured(run_on(diagonal()), X)
    assert moments.coupling is not None
    mixing = eliminate_mixed(moments.coupling[0], 2)
    assert mixing.loss / moments.joint.sum() < dropped_energy(moments, mixing.kept[None])


@EVERY
def test_states_nobody_reads_are_dropped_for_nothing(name: str) -> None:
    mixer = MIXERS[name]
    dead = [1, 3]
    if isinstance(mixer, ScalarMixer):
        rows = [g * mixer.states + k for g in range(mixer.groups) for k in dead]
        inner, wide = mixer.channels, mixer.in_b.shape[0]
        at = np.array(rows)
        conv, conv_bias = mixer.conv.copy(), mixer.conv_bias.copy()
        conv[inner + wide + at], conv_bias[inner + wide + at] = 0.0, 0.0
        mixer = replace(mixer, conv=conv, conv_bias=conv_bias)
    elif mixer.c_norm is not None:
        pytest.skip("a norm over the kept states changes with their number")
    else:
        x_c = mixer.x_c.copy()
        x_c[:, dead] = 0.0
        mixer = replace(mixer, x_c=x_c)
    moments, _ = measured(run_on(mixer), X)
    selection = select(mixer, moments, 3)
    assert selection.loss < 1e-12
    assert difference(mixer, keep_states(mixer, selection)).out_error < 1e-5


def test_taylor_needs_scores() -> None:
    moments, _ = measured(run_on(diagonal()), X)
    with pytest.raises(UsageError, match="gradient"):
        select(diagonal(), moments, 2, Select.taylor)
    kept = select(diagonal(), moments, 2, Select.taylor, taylor=np.array([[1.0, 5, 2, 4, 3]])).kept
    assert kept.tolist() == [[1, 3]]


def test_random_selection_is_seeded() -> None:
    moments, _ = measured(run_on(scalar(states=5)), X)
    a, b, c = (select(scalar(), moments, 2, Select.random, seed=seed).kept for seed in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("name", ["mamba1", "mamba2"])
def test_a_refit_repairs_damaged_maps(name: str) -> None:
    """The target is what the undamaged mixer does: it can be reached, and is approached."""
    whole, x = run_on(MIXERS[name]), inputs(batch=48, length=30)
    target, *_ = forward(whole, x)
    rows = "x_c" if name == "mamba1" else "in_c"
    damaged = replace(whole, **{rows: getattr(whole, rows) * 0.7})
    (found,), info = refit((damaged,), x, target, RefitOptions(steps=300))
    assert info.after < 0.7 * info.before
    assert torch.equal(found.out, whole.out)


def test_a_refit_never_returns_something_worse() -> None:
    whole = run_on(MIXERS["mamba1"])
    target, *_ = forward(whole, X)
    (found,), info = refit((whole,), X, target, RefitOptions(steps=3, rate=10.0))
    assert found is whole
    assert info.after == info.before < 1e-20


def test_refit_of_zero_steps_is_the_mixer_itself() -> None:
    whole = run_on(MIXERS["mamba2"])
    (found,), _ = refit((whole,), X, X, RefitOptions(steps=0))
    assert all(
        getattr(found, field) is value or torch.equal(getattr(found, field), value)
        for field, value in vars(whole).items()
        if isinstance(value, torch.Tensor)
    )


def test_entropy_size_counts_equal_values() -> None:
    assert entropy_size(np.array([[2.0, 2, 2, 0, 0]])) == pytest.approx(3)
    assert entropy_size(np.array([[1.0, 0, 0]])) == pytest.approx(1)


def test_static_values_are_those_of_the_product_of_the_maps() -> None:
    mixer = diagonal(states=3, channels=8)
    expected = np.linalg.svd(mixer.x_c[0].T @ mixer.x_b[0], compute_uv=False)[:3]
    np.testing.assert_allclose(static_values(mixer)[0], expected, rtol=1e-9)


def test_predicted_error_is_exact_where_reading_and_driving_are_independent() -> None:
    """With C independent of the state, E[C^T (I - Pi) G (I - Pi)^T C] = tr((I - Pi)^T W_o (I - Pi) W_c)."""
    moments, _ = measured(run_on(scalar(groups=1)), X)
    project_b, project_c = balanced_projectors(moments, 2)
    rest = np.eye(5) - project_c[0].T @ project_b[0]
    lost = np.trace(rest.T @ moments.observability[0] @ rest @ moments.reachability[0])
    whole = np.trace(moments.observability[0] @ moments.reachability[0])
    errors = calibrated_spectrum(scalar(groups=1), moments).errors
    assert np.sqrt(lost / whole) == pytest.approx(errors[2], rel=1e-9)


def test_statistics_of_long_data_do_not_grow() -> None:
    mixer = run_on(scalar())
    statistics = Statistics(mixer)
    size = sum(t.numel() for t in vars(statistics).values() if isinstance(t, torch.Tensor))
    for part in inputs(batch=4, length=64).split(1):
        out, _, trace = forward(mixer, part)
        statistics.update(trace, out)
    assert sum(t.numel() for t in vars(statistics).values() if isinstance(t, torch.Tensor)) == size


@MAMBA2
def test_a_projected_mixer_is_measured_as_it_runs(name: str) -> None:
    """Without a norm the weights do not feel the change: the values are the leading ones of the original."""
    mixer = replace(MIXERS[name], norm=None)
    moments, _ = measured(run_on(mixer), X)
    smaller = projected(mixer, moments, 3)
    again, _ = measured(run_on(smaller), X)
    whole = calibrated_spectrum(mixer, moments).values
    np.testing.assert_allclose(calibrated_spectrum(smaller, again).values, whole[:, :3], rtol=1e-6)
    assert smaller.state_size == 3 * mixer.channels
    assert static_values(smaller).shape == (mixer.groups, 3)
