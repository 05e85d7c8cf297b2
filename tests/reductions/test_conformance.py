"""What every reduction has to keep, on every kind of system. A new reduction is found by its name; nothing to add here.

H-infinity errors are measured by `hinf_norm`, which is attained at a frequency and tight to 1e-6; `TINY` of the Hankel
norm stands for the float64 rounding of a projection.
"""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest

from ssmtool import plugins
from ssmtool.errors import ReductionError
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.norms import difference, hinf_norm, to_dense
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.reductions._contract import Options, Result, Target
from tests.lti.samples import batch, dense, mixed, real_stored, ring, slots
from tests.reductions.facts import facts

PACKAGE = "ssmtool.reductions"
REDUCTIONS = plugins.names(PACKAGE)
TINY = 1e-10


def shared_poles(outputs: int = 1) -> DiagonalSystem:
    """Four systems with the same poles, as layouts with one set per layer have."""
    system = ring(4, 5, 1, outputs, seed=5)
    return DiagonalSystem(np.repeat(system.a[:1], 4, axis=0), system.B, system.C, system.D)


def real_positive() -> DiagonalSystem:
    system = real_stored(3, 5, seed=2)
    return DiagonalSystem(system.a.real + 0j, system.B, system.C, system.D, real=True)


SYSTEMS: dict[str, System] = {
    "SISO batch": ring(5, 5),
    "one system": ring(1, 6, seed=3),
    "SISO with real poles": mixed(3, 5),
    "SIMO": ring(3, 5, 1, 3),
    "MIMO": mixed(2, 5, 2, 3),
    "real-stored": real_stored(3, 6),
    "real-stored positive, SIMO": real_positive(),
    "shared poles": shared_poles(),
    "shared poles, two outputs": shared_poles(2),
    "redundant states": slots(ring(3, 4), [0, 1, 1, 2, 3]),
    "dense": dense(2, 6, 2, 2),
    "dense SISO": dense(2, 7),
}


ACCEPTED = [(name, kind) for name in REDUCTIONS for kind, system in SYSTEMS.items() if not facts(name).refuses(system)]
REFUSED = [(name, kind) for name in REDUCTIONS for kind, system in SYSTEMS.items() if facts(name).refuses(system)]

each_case = pytest.mark.parametrize(("name", "kind"), ACCEPTED)


def reduced(name: str, system: System, kind: str, value: float | np.ndarray) -> Result:
    return plugins.load(PACKAGE, name).reduce(system, Target(kind, value), options=facts(name).given(system))  # type: ignore[arg-type]


def error(system: System, result: Result) -> np.ndarray:
    """(S,) measured H-infinity error."""
    return hinf_norm(difference(system, result.system))


def stored_slots(system: System) -> int:
    return system.slots if isinstance(system, DiagonalSystem) else system.order


def well_formed(name: str, system: System, result: Result) -> None:
    small = result.system
    assert (small.a.real < 0).all()
    assert (small.systems, small.inputs, small.outputs) == (system.systems, system.inputs, system.outputs)
    if not facts(name).moves_feedthrough:
        np.testing.assert_array_equal(small.D, system.D)
    sigma = hankel_singular_values(system).sigma
    # the spectrum of a projection is right to 1e-14 sigma_1
    np.testing.assert_allclose(result.spectrum.sigma, sigma, rtol=0, atol=1e-13 * sigma.max())
    assert (result.slots <= small.slots).all()
    per_slot = 1 if small.real else 2
    assert (result.orders <= per_slot * result.slots).all()
    assert (result.slots <= np.maximum(result.orders, 1)).all()
    for s, used in enumerate(result.slots):
        assert not small.C[s, :, used:].any(), "slots beyond the declared ones must be silent"
    assert all(part.dtype == np.complex128 for part in (small.a, small.B, small.C))
    assert all(np.isfinite(part).all() for part in (small.a, small.B, small.C))


def test_modules_are_complete():
    assert set(REDUCTIONS) >= {"balanced", "modal", "subset"}
    for name in REDUCTIONS:
        module = plugins.load(PACKAGE, name)
        assert isinstance(module.SUMMARY, str)
        assert "\n" not in module.SUMMARY
        assert isinstance(module.REFERENCE, str)
        assert {*module.NEEDS} <= {*module.OPTIONS} <= {field.name for field in fields(Options)}
        assert module.COMPLEXITY >= 0


@pytest.mark.parametrize(("name", "kind"), REFUSED)
def test_what_a_method_cannot_reduce_is_an_error_of_ours(name, kind):
    with pytest.raises(ReductionError):
        reduced(name, SYSTEMS[kind], "rank", 2)


@each_case
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_rank_is_the_largest_order(name, kind, rank):
    system = SYSTEMS[kind]
    result = reduced(name, system, "rank", min(rank, system.order))
    well_formed(name, system, result)
    least = 1 if facts(name).halves_pairs or result.system.real else 2
    assert (result.orders <= max(rank, least)).all()


@each_case
def test_every_system_may_have_a_rank_of_its_own(name, kind):
    system = SYSTEMS[kind]
    ranks = np.minimum(2 + 2 * np.arange(system.systems), system.order)
    result = reduced(name, system, "rank", ranks)
    well_formed(name, system, result)
    limit = np.full_like(ranks, ranks.max()) if name == "subset" else ranks  # one set of poles for all
    assert (result.orders <= np.maximum(limit, 1 if facts(name).halves_pairs else 2)).all()


@each_case
@pytest.mark.parametrize("rank", [2, 5])
def test_error_lies_between_what_any_method_must_make_and_the_bound(name, kind, rank):
    """sigma_{r+1} <= ||G - G_r|| for every G_r of order r; below the a priori bound where there is one.

    A change of D is one more step of delay to the Hankel matrix: its rank counts like as many states.
    """
    system = SYSTEMS[kind]
    result = reduced(name, system, "rank", min(rank, system.order))
    sigma = np.pad(result.spectrum.sigma, ((0, 0), (0, 1)))
    measured, first = error(system, result), sigma[:, 0]
    rows = np.arange(len(measured))
    extra = min(system.inputs, system.outputs) if facts(name).moves_feedthrough else 0
    lower = sigma[rows, np.minimum(result.orders + extra, sigma.shape[1] - 1)]
    assert (measured >= lower * (1 - 1e-6) - TINY * first).all()
    bounded = ~np.isnan(result.bound)
    assert (measured <= result.bound * (1 + 1e-6) + TINY * first)[bounded].all()


@each_case
@pytest.mark.parametrize("target", [1e-1, 1e-3])
def test_error_targets_are_met_where_they_are_promised(name, kind, target):
    """Through a bound or by measuring."""
    system = SYSTEMS[kind]
    result = reduced(name, system, "error", target)
    well_formed(name, system, result)
    if facts(name).meets_errors:
        assert (error(system, result) <= target * result.spectrum.sigma[:, 0] * (1 + 1e-6)).all()


@each_case
@pytest.mark.parametrize("fraction", [0.5, 0.999])
def test_energy_targets_keep_that_share(name, kind, fraction):
    """Of the sum of Hankel singular values; methods that cannot halve a pair or share poles may keep more."""
    system = SYSTEMS[kind]
    result = reduced(name, system, "energy", fraction)
    well_formed(name, system, result)
    sigma = result.spectrum.sigma
    if facts(name).smallest:
        for s, r in enumerate(result.orders):
            assert sigma[s, :r].sum() >= fraction * sigma[s].sum() * (1 - 1e-12)
            assert sigma[s, : r - 1].sum() < fraction * sigma[s].sum() * (1 + 1e-12)


@each_case
def test_the_full_order_is_the_system_itself(name, kind):
    system, tolerance = SYSTEMS[kind], facts(name).full
    if tolerance is None:
        pytest.skip("not promised by this method")
    result = reduced(name, system, "rank", system.order)
    h = impulse_response(system, 100)
    got = impulse_response(result.system, 100)
    # states below 1e-14 sigma_1 are not kept; the projection itself costs another few digits
    np.testing.assert_allclose(got, h, rtol=0, atol=tolerance * np.abs(h).max())


@each_case
def test_more_states_are_never_worse_by_the_bound(name, kind):
    system = SYSTEMS[kind]
    bounds = [reduced(name, system, "rank", r).bound for r in range(1, min(7, system.order + 1))]
    assert not facts(name).grows or all((b <= a).all() or np.isnan(a).all() for a, b in pairwise(bounds))


@each_case
def test_the_same_call_gives_the_same_numbers(name, kind):
    one, two = (reduced(name, SYSTEMS[kind], "rank", 3) for _ in range(2))
    for part in ("a", "B", "C", "D"):
        np.testing.assert_array_equal(getattr(one.system, part), getattr(two.system, part))
    np.testing.assert_array_equal(one.orders, two.orders)


@each_case
def test_the_input_is_not_changed(name, kind):
    system = SYSTEMS[kind]
    before = [part.copy() for part in vars(system).values() if isinstance(part, np.ndarray)]
    reduced(name, system, "rank", 2)
    after = [part for part in vars(system).values() if isinstance(part, np.ndarray)]
    assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))


@each_case
def test_feedthrough_plays_no_part(name, kind):
    if facts(name).needs_feedthrough:
        pytest.skip("not promised by this method")
    system = SYSTEMS[kind]
    other = replace(system, D=10 * system.D + 1)
    one, two = reduced(name, system, "rank", 3), reduced(name, other, "rank", 3)
    if facts(name).moves_feedthrough:
        h, shifted = impulse_response(one.system, 50), impulse_response(two.system, 50)
        h[..., 0] += other.D - system.D
        np.testing.assert_allclose(shifted, h, rtol=0, atol=1e-9 * np.abs(h).max())
        return
    np.testing.assert_array_equal(one.system.C, two.system.C)
    np.testing.assert_array_equal(two.system.D, other.D)


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("target", [("rank", 2), ("energy", 0.9), ("error", 1e-3)])
def test_a_silent_system_among_others(name, target):
    """B = 0: nothing to keep, nothing to divide by."""
    system = ring(2, 3)
    system = batch(system, DiagonalSystem(system.a[:1], 0 * system.B[:1], system.C[:1], system.D[:1]))
    result = reduced(name, system, *target)
    well_formed(name, system, result)
    h = impulse_response(result.system, 20)[2]
    assert np.abs(h[..., 1:]).max() == 0


@pytest.mark.parametrize("name", REDUCTIONS)
def test_only_silent_systems(name):
    system = ring(2, 3)
    system = DiagonalSystem(system.a, 0 * system.B, system.C, system.D)
    result = reduced(name, system, "rank", 2)
    assert (error(system, result) == 0).all()


@pytest.mark.parametrize("kind", [kind for kind, system in SYSTEMS.items() if isinstance(system, DiagonalSystem)])
def test_balanced_truncation_of_the_dense_form_is_the_same(kind):
    """Whichever way the Gramian factors were computed."""
    system = SYSTEMS[kind]
    one, two = (reduced("balanced", x, "rank", 3) for x in (system, to_dense(system)))
    h = impulse_response(one.system, 60)
    for s in range(system.systems):
        sigma = one.spectrum.sigma[s]
        if one.orders[s] == two.orders[s] and sigma[3] < 0.99 * sigma[2]:  # equal values: the cut is arbitrary
            got = impulse_response(two.system, 60)[s]
            np.testing.assert_allclose(got, h[s], rtol=0, atol=1e-8 * np.abs(h[s]).max())


def test_subset_keeps_stored_poles_common_to_all_systems():
    system = shared_poles(2)
    result = reduced("subset", system, "rank", 4)
    kept = result.system.a
    assert (kept == kept[:1]).all()
    assert {complex(x) for x in kept[0]} <= {complex(x) for x in system.a[0]}


def test_subset_residues_are_h2_optimal():
    """The error's response is orthogonal to the kept modes: any change of the residues makes it longer."""
    system = shared_poles()
    result = reduced("subset", system, "rank", 4)
    best = np.square(impulse_response(system, 2048) - impulse_response(result.system, 2048)).sum(axis=(1, 2, 3))
    rng = np.random.default_rng(0)
    for _ in range(5):
        noise = rng.standard_normal(result.system.C.shape) + 1j * rng.standard_normal(result.system.C.shape)
        other = DiagonalSystem(result.system.a, result.system.B, result.system.C + 1e-3 * noise, result.system.D)
        worse = np.square(impulse_response(system, 2048) - impulse_response(other, 2048)).sum(axis=(1, 2, 3))
        assert (worse > best).all()


def test_modal_truncation_changes_nothing_of_what_it_keeps():
    system = ring(3, 6)
    result = reduced("modal", system, "rank", 4)
    for s in range(3):
        for k in range(result.slots[s]):
            i = int(np.argmin(np.abs(system.a[s] - result.system.a[s, k])))
            assert system.a[s, i] == pytest.approx(result.system.a[s, k], rel=1e-14)
            residue = system.C[s, 0, i] * system.B[s, i, 0]
            assert result.system.C[s, 0, k] * result.system.B[s, k, 0] == pytest.approx(residue, rel=1e-13)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_progress_is_reported(name):
    seen, system = [], ring(4, 3)
    plugins.load(PACKAGE, name).reduce(
        system, Target("rank", 2), options=facts(name).given(system), progress=lambda *n: seen.append(n)
    )
    assert seen[-1] == (4, 4)
