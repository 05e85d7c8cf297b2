"""Compression of whole selective checkpoints: what is written is what was computed, and nothing else moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ssmtool
from ssmtool.errors import CalibrationError, ReductionError, UsageError
from ssmtool.pipeline.calibrate import calibrate, streams
from ssmtool.pipeline.runner import open_runner, with_mixers
from ssmtool.pipeline.selective_compress import compress_selective
from ssmtool.pipeline.selective_hsv import calibrated_hsv, static_hsv
from ssmtool.pipeline.taylor import taylor_scores
from ssmtool.pipeline.tokens import Tokens
from ssmtool.selective.choices import Export, Select
from ssmtool.selective.language import LanguageModel
from ssmtool.selective.mixers import DiagonalMixer, to_torch
from ssmtool.selective.refit import RefitOptions
from tests.pipeline.language_models import byte_model

KINDS = pytest.mark.parametrize("kind", ["mamba", "mamba2"])
STATES = {"mamba": 8, "mamba2": 16}


def sample(rows: int = 12, length: int = 24, seed: int = 1) -> Tokens:
    array = np.random.default_rng(seed).integers(0, 256, (rows, length))
    return Tokens(array, f"{rows} x {length} random tokens", "")


def opened(folder: Path, kind: str) -> tuple[ssmtool.Model, LanguageModel]:
    model = ssmtool.load(byte_model(folder / kind, kind))
    runner = open_runner(model, "cpu")
    assert isinstance(runner, LanguageModel)
    return model, runner


@KINDS
def test_a_stock_export_is_a_checkpoint_with_fewer_states(kind: str, tmp_path: Path) -> None:
    model, runner = opened(tmp_path, kind)
    half = STATES[kind] // 2
    done = compress_selective(model, runner, sample(), tmp_path / "out", rank=half, options=RefitOptions(steps=3))
    again = ssmtool.load(tmp_path / "out")
    assert [layer.slots for layer in again.layers] == [half, half]
    assert again.checkpoint.config is not None
    assert again.checkpoint.config["state_size"] == half
    claimed = {name for layer in model.layers for name in layer.tensors.values()}
    for name in model.checkpoint.tensors.keys() - claimed:
        np.testing.assert_array_equal(again.checkpoint.read(name), model.checkpoint.read(name))
    assert again.checkpoint.tensors.keys() == model.checkpoint.tensors.keys()
    assert done.bytes_after == again.checkpoint.data_bytes < done.bytes_before
    record = json.loads(again.checkpoint.metadata["ssmtool"])
    assert set(record["predicted_error"]) == {layer.name for layer in model.layers}
    assert record["select"] == "elimination"


@pytest.mark.parametrize("how", list(Select))
@KINDS
def test_every_rule_of_selection_gives_a_model_that_runs(kind: str, how: Select, tmp_path: Path) -> None:
    model, runner = opened(tmp_path, kind)
    done = compress_selective(model, runner, sample(), tmp_path / "out", rank=3, how=how, options=RefitOptions(steps=0))
    logits = open_runner(ssmtool.load(tmp_path / "out"), "cpu").logits(torch.from_numpy(sample().array))
    assert torch.isfinite(logits).all()
    assert all(0 < row.out_error < 2 for row in done.layers)
    assert all(row.projection <= row.predicted + 1e-9 or how is Select.elimination for row in done.layers)


def test_a_projection_is_written_read_and_run(tmp_path: Path) -> None:
    model, runner = opened(tmp_path, "mamba2")
    done = compress_selective(model, runner, sample(), tmp_path / "out", rank=4, export=Export.projected)
    again = ssmtool.load(tmp_path / "out")
    assert [layer.slots for layer in again.layers] == [4, 4]
    small = {layer.name: tuple(to_torch(m, torch.float32) for m in again.mixers(layer)) for layer in again.layers}
    tokens = torch.from_numpy(sample(seed=2).array)
    expected = with_mixers(runner, small).logits(tokens)
    torch.testing.assert_close(open_runner(again, "cpu").logits(tokens), expected)
    for row in done.layers:
        assert row.predicted == pytest.approx(row.scan_error, rel=0.5)
    for name in model.checkpoint.tensors:
        np.testing.assert_array_equal(again.checkpoint.read(name), model.checkpoint.read(name))


def test_a_projection_to_all_but_dead_states_changes_nothing(tmp_path: Path) -> None:
    model, runner = opened(tmp_path, "mamba2")
    done = compress_selective(model, runner, sample(), tmp_path / "out", rank=15, export=Export.projected)
    tokens = torch.from_numpy(sample().array)
    before, after = runner.logits(tokens), open_runner(ssmtool.load(tmp_path / "out"), "cpu").logits(tokens)
    assert (before - after).norm() / before.norm() < 0.02
    assert max(row.scan_error for row in done.layers) < 0.05


@KINDS
def test_a_refit_lowers_the_error_it_fits(kind: str, tmp_path: Path) -> None:
    model, runner = opened(tmp_path, kind)
    options = RefitOptions(steps=60, last=10)
    done = compress_selective(model, runner, sample(48), None, rank=1, how=Select.random, options=options, dry_run=True)
    fits = [row.refit for row in done.layers]
    assert all(fit is not None and fit.after <= fit.before for fit in fits)
    assert any(fit is not None and fit.after < 0.9 * fit.before for fit in fits)
    assert not (tmp_path / "out").exists()


@KINDS
def test_error_energy_and_budget_choose_the_rank(kind: str, tmp_path: Path) -> None:
    model, runner = opened(tmp_path, kind)
    tokens, none = sample(), RefitOptions(steps=0)
    found = calibrated_hsv(model, runner, tokens)
    wanted = max(spectrum.size(0.2) for row in found.layers for spectrum in row.spectra)
    by_error = compress_selective(model, runner, tokens, None, error=0.2, options=none, dry_run=True)
    assert {row.states for row in by_error.layers} == {wanted}
    by_budget = compress_selective(model, runner, tokens, None, budget=0.5, options=none, dry_run=True)
    assert {row.states for row in by_budget.layers} == {STATES[kind] // 2}
    by_energy = compress_selective(model, runner, tokens, None, energy=0.5, options=none, dry_run=True)
    assert 1 <= by_energy.layers[0].states < STATES[kind]


def test_targets_that_cannot_be(tmp_path: Path) -> None:
    model, runner = opened(tmp_path, "mamba")
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"rank": 9}, "between 1 and the 8 states"),
        ({"rank": 0}, "between 1 and the 8 states"),
        ({}, "0 targets"),
        ({"rank": 2, "budget": 0.5}, "2 targets"),
        ({"error": 2.0}, "not between 0 and 1"),
    )
    for target, text in cases:
        with pytest.raises(UsageError, match=text):
            compress_selective(model, runner, sample(), tmp_path / "out", **target)
    with pytest.raises(ReductionError, match="keeps all 8 states"):
        compress_selective(model, runner, sample(), tmp_path / "out", rank=8)
    with pytest.raises(ReductionError, match="needs all 8 states"):
        compress_selective(model, runner, sample(), tmp_path / "out", error=1e-9)
    with pytest.raises(ReductionError, match="cannot be mixed"):
        compress_selective(model, runner, sample(), tmp_path / "out", rank=2, export=Export.projected)
    with pytest.raises(UsageError, match="one state size for all layers"):
        compress_selective(model, runner, sample(), tmp_path / "out", rank=2, layers=["*.0.*"])
    with pytest.raises(CalibrationError, match="8 calibration tokens"):
        compress_selective(model, runner, sample(1, 8), tmp_path / "out", rank=2)
    assert not (tmp_path / "out").exists()


def test_projection_refuses_what_is_for_selections(tmp_path: Path) -> None:
    model, runner = opened(tmp_path, "mamba2")
    extras: tuple[dict[str, Any], ...] = ({"how": Select.ghost}, {"options": RefitOptions()})
    for extra in extras:
        with pytest.raises(UsageError, match="--export stock"):
            compress_selective(model, runner, sample(), tmp_path / "out", rank=2, export=Export.projected, **extra)


def test_some_layers_can_be_projected(tmp_path: Path) -> None:
    model, runner = opened(tmp_path, "mamba2")
    compress_selective(model, runner, sample(), tmp_path / "out", rank=4, export=Export.projected, layers=["*.1.*"])
    assert [layer.slots for layer in ssmtool.load(tmp_path / "out").layers] == [16, 4]


@KINDS
def test_calibration_in_batches_is_calibration_at_once(kind: str, tmp_path: Path) -> None:
    model, runner = opened(tmp_path, kind)
    mixers = runner.mixers
    for a, b in zip(
        calibrate(runner, mixers, sample().array, batch=12).values(),
        calibrate(runner, mixers, sample().array, batch=5).values(),
        strict=True,
    ):
        np.testing.assert_allclose(a[0].reachability, b[0].reachability, rtol=1e-4, atol=1e-12)
        assert a[0].tokens == b[0].tokens == 12 * 24
    assert model.layers


def test_streams_are_those_of_the_model_with_layers_replaced(tmp_path: Path) -> None:
    _, runner = opened(tmp_path, "mamba2")
    first, second = runner.names
    tokens = sample().array
    quiet = {first: tuple(to_torch(m, torch.float32) for m in runner.mixers[second])}
    x, residual = streams(runner, runner.mixers, second, tokens, replaced=quiet)
    seen: list[torch.Tensor] = []
    with_mixers(runner, quiet).logits(
        torch.from_numpy(tokens), lambda name, _, stream: seen.append(stream) if name == second else None
    )
    torch.testing.assert_close(residual, seen[0])
    assert x.shape == residual.shape == (12, 24, 32)


def test_taylor_scores_are_derivatives_of_the_loss(tmp_path: Path) -> None:
    """Against a difference quotient: C of one state scaled by 1 + e."""
    from dataclasses import replace

    import torch.nn.functional as F

    _, runner = opened(tmp_path, "mamba")
    mixers = {name: tuple(to_torch(m, torch.float64) for m in parts) for name, parts in runner.mixers.items()}
    double = replace(
        runner,
        embedding=runner.embedding.double(),
        head=runner.head.double(),
        norms={name: norm.double() for name, norm in runner.norms.items()},
        final_norm=runner.final_norm.double(),
        mixers=mixers,
    )
    tokens = sample(4).array
    name = runner.names[0]
    scores = taylor_scores(double, mixers, tokens, lambda *_: None)[name][0]

    def loss(scale: float) -> float:
        mixer = mixers[name][0]
        assert isinstance(mixer, DiagonalMixer)
        x_c = mixer.x_c.clone()
        x_c[:, 2] *= scale
        batch = torch.from_numpy(tokens)
        logits = with_mixers(double, {name: (replace(mixer, x_c=x_c),)}).logits(batch)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten()).item()

    slope = (loss(1 + 1e-5) - loss(1 - 1e-5)) / 2e-5
    assert scores[0, 2] == pytest.approx(abs(slope), rel=1e-5)


def test_without_tokens_weights_speak_alone(tmp_path: Path) -> None:
    model, _ = opened(tmp_path, "mamba2")
    found = static_hsv(model)
    assert found.tokens is None
    assert all(row.spectra == () and row.static[0].shape == (1, 16) for row in found.layers)


def test_names_stand_for_choices(tmp_path: Path) -> None:
    model, runner = opened(tmp_path, "mamba2")
    done = compress_selective(model, runner, sample(), None, rank=4, export="projected", dry_run=True)
    assert done.export is Export.projected
    with pytest.raises(UsageError, match="no export 'smaller'"):
        compress_selective(model, runner, sample(), None, rank=4, export="smaller", dry_run=True)
    with pytest.raises(UsageError, match="no rule of selection 'best'"):
        compress_selective(model, runner, sample(), None, rank=4, how="best", dry_run=True)
