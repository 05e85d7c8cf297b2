"""What a report shows, against the commands that compute the same on their own."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

import ssmtool
from ssmtool import plugins
from ssmtool.errors import MismatchError, UsageError
from ssmtool.lti.responses import gains
from ssmtool.lti.systems import DiagonalSystem
from ssmtool.pipeline.portrait import POSITIONS, portrait, rank_positions
from ssmtool.pipeline.predicted_size import predicted_sizes
from ssmtool.pipeline.samples import POLES, representative, sample_poles, sample_responses
from ssmtool.pipeline.tokens import TokenSource
from ssmtool.selective.refit import RefitOptions
from tests.lti.samples import dense, ring
from tests.pipeline.language_models import byte_model


@pytest.fixture
def tiny(tmp_path):
    """tiny(family, variant, change=None): a loaded random checkpoint of a family that needs no config.json."""

    def make(family: str, variant: str, change=None):
        tensors, _ = plugins.load("ssmtool.families", family).tiny(variant, 0)
        if change:
            change(tensors)
        path = tmp_path / f"{family}.safetensors"
        save_file({name: np.array(array, order="C") for name, array in tensors.items()}, path)
        return ssmtool.load(path)

    return make


@pytest.mark.parametrize("family", ["s4d", "lru", "neutral"])
def test_predicted_sizes_are_those_of_written_checkpoints(tiny, tmp_path, family):
    model = tiny(family, plugins.load("ssmtool.families", family).VARIANTS[0])
    found = portrait(model, parts=("sizes",))
    done = ssmtool.compress(model, tmp_path / "out.safetensors", rank=2)
    slots = {row.layer.name: row.slots for row in done.layers}
    for row, layer in zip(done.layers, sorted(found.layers, key=lambda r: r.layer.name), strict=True):
        states = slots[layer.layer.name] * (2 if layer.layer.order > layer.layer.slots else 1)
        predicted = dict(zip(found.ranks, layer.sizes, strict=True))[states]
        # real poles take slots of their own, so that the rank the file has stands behind its slots
        assert predicted == row.bytes_after
        assert layer.sizes[-1] == row.bytes_before == layer.bytes


def test_sizes_of_selective_layers_are_those_compress_would_write(tmp_path):
    model = ssmtool.load(byte_model(tmp_path / "model", "mamba2"))
    runner = ssmtool.open_runner(model)
    tokens = ssmtool.read_tokens(TokenSource(sampled=4, length=32), model, runner)
    done = ssmtool.compress_selective(model, runner, tokens, None, rank=5, dry_run=True, options=RefitOptions(steps=0))
    for row in done.layers:
        (size,) = predicted_sizes(model, row.layer, model.mixers(row.layer), [5])
        assert size == row.bytes_after


def test_measured_ranks_are_what_a_dry_run_of_compress_measures(tiny):
    model = tiny("s4d", "s4d")
    found = portrait(model, ranks=(1, 2, 400), parts=("spectra",))
    for rank in (1, 2):
        done = {row.layer.name: row for row in ssmtool.compress(model, None, rank=rank, dry_run=True).layers}
        for row in found.layers:
            measured = {m.rank: m for m in row.measured}[rank]
            np.testing.assert_allclose(measured.error, done[row.layer.name].hinf_relative, rtol=1e-9)
    assert [m.rank for m in found.layers[0].measured] == [1, 2, 6]  # a layer has no more than its order


def test_a_reduced_model_is_compared_with_and_without_running_it(tiny, tmp_path):
    model = tiny("s4d", "s4d")
    ssmtool.compress(model, tmp_path / "out.safetensors", rank=2)
    reduced = ssmtool.load(tmp_path / "out.safetensors")
    run, looked = portrait(model, reduced), portrait(model, reduced, timings=False)
    assert run.validation is not None
    assert run.validation.passed
    assert looked.validation is None
    assert run.record["target"] == "rank 2"
    for first, second in zip(run.layers, looked.layers, strict=True):
        assert first.partner is not None
        assert second.partner is not None
        assert first.partner.error is not None
        assert first.partner.error == pytest.approx(second.partner.error, rel=1e-6)
        assert first.partner.bytes < first.bytes
        assert first.responses is not None
        assert first.responses.reduced_gain is not None
        assert first.responses.error_gain is not None
        gap = np.abs(first.responses.gain - first.responses.reduced_gain)
        assert (gap <= first.responses.error_gain * (1 + 1e-9) + 1e-12).all()  # the triangle inequality
        worst = (first.responses.error_gain / first.responses.norm[:, None]).max()
        assert worst <= first.partner.error * (1 + 1e-6)  # a gain is at most the H-infinity norm


def test_another_model_is_refused(tiny, tmp_path):
    with pytest.raises(MismatchError):
        portrait(tiny("s4d", "s4d"), tiny("neutral", "batch"))


@pytest.mark.parametrize("timings", [True, False])
def test_an_unstable_layer_is_shown_and_compared(tiny, tmp_path, timings):
    def push_out(tensors):
        tensors["model.layers.0.ssm.lambda_log"][0, 0, 0] = 0.01

    model = tiny("neutral", "batch", push_out)
    done = ssmtool.compress(model, tmp_path / "out.safetensors", rank=4)
    reduced = ssmtool.load(tmp_path / "out.safetensors")
    found = portrait(model, reduced, ranks=(4,), timings=timings)
    first = next(row for row in found.layers if row.layer.name.endswith("0.ssm"))
    assert first.poles is not None
    assert (np.abs(first.poles.values) > 1).any()
    assert first.partner is not None
    assert first.partner.error == pytest.approx(done.layers[0].hinf_relative, rel=1e-9)
    assert (first.partner.orders <= 4).all()
    assert (first.partner.orders > 2).all()  # the kept pair counts, too
    assert found.absent == ()
    if timings:
        assert found.validation is not None
        assert [layer.stable_part for layer in found.validation.layers] == [True, False]


def test_an_unstable_layer_that_was_changed_has_no_error(tiny, tmp_path):
    def push_out(tensors, by=0.01):
        tensors["model.layers.0.ssm.lambda_log"][0, 0, 0] = by

    model = tiny("neutral", "batch", push_out)
    tensors = {name: model.checkpoint.read(name) for name in model.checkpoint.tensors}
    push_out(tensors, 0.02)
    save_file({name: x.astype(np.float32) for name, x in tensors.items()}, tmp_path / "other.safetensors")
    other = ssmtool.load(tmp_path / "other.safetensors")
    for timings in (True, False):
        found = portrait(model, other, timings=timings)
        errors = {row.layer.name: None if row.partner is None else row.partner.error for row in found.layers}
        assert (errors["layers.0.ssm"], errors["layers.1.ssm"]) == (None, 0)


def test_tokens_of_a_linear_model_are_refused(tiny):
    with pytest.raises(UsageError, match="selective"):
        portrait(tiny("s4d", "s4d"), source=TokenSource(sampled=2))


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_selective_models_with_and_without_tokens(tmp_path, kind):
    model = ssmtool.load(byte_model(tmp_path / kind, kind))
    bare = portrait(model)
    assert all(row.calibration is not None and not row.calibration.spectra for row in bare.layers)
    assert any("tokens" in sentence for sentence in bare.absent)
    seen = portrait(model, source=TokenSource(sampled=6, length=32))
    assert all(row.calibration is not None and row.calibration.spectra for row in seen.layers)
    assert seen.tokens is not None
    assert all(list(row.sizes) == sorted(row.sizes) for row in seen.layers)


def test_positions_of_the_slider():
    assert rank_positions(7) == [1, 2, 3, 4, 5, 6, 7]
    many = rank_positions(5000)
    assert len(many) <= POSITIONS
    assert (many[0], many[-1]) == (1, 5000)
    assert many == sorted(set(many))


def test_sampled_poles_are_poles_and_few():
    system = ring(300, 20)
    found = sample_poles(system)
    assert len(found.values) <= POLES
    assert (found.systems, found.total) == (20, 6000)
    moduli = np.exp(system.a.real)
    assert all(np.isclose(np.abs(value), moduli).any() for value in found.values[:20])
    wide = sample_poles(dense(1, 6, 1, 1))
    expected = np.linalg.eigvals(dense(1, 6, 1, 1).A[0])
    np.testing.assert_allclose(
        np.sort_complex(wide.values), np.sort_complex(expected[expected.imag >= 0]), rtol=1e-9, atol=1e-12
    )


def test_representative_systems_have_the_extreme_norms():
    assert representative(np.array([3.0, 9.0, 1.0, 5.0])).tolist() == [1, 3, 2]
    assert representative(np.array([2.0])).tolist() == [0]


def test_chosen_systems_are_checked():
    with pytest.raises(UsageError, match="no system 3"):
        sample_responses(ring(3, 4), np.ones(3), systems=[3])


def test_responses_know_where_the_poles_are():
    # one sharp resonance between the points of any plain grid
    a = np.array([[-1e-5 + 0.123456j]])
    one = np.ones((1, 1, 1), complex)
    system = DiagonalSystem(a, one, one, np.zeros((1, 1, 1)))
    found = sample_responses(system, np.ones(1))
    peak = gains(system, np.array([0.123456]))[0, 0]
    np.testing.assert_allclose(found.gain.max(), peak, rtol=1e-3)
