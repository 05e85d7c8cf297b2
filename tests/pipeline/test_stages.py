"""Interrupted work on tokens goes on where it was and ends with the same bits; nothing is taken for another."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ssmtool
from ssmtool.cache import Cache
from ssmtool.fitting import Fit
from ssmtool.pipeline import selective_layers, stages
from ssmtool.pipeline.kept_fits import fit_arrays, fit_of
from ssmtool.pipeline.runner import open_runner
from ssmtool.pipeline.selective_compress import compress_selective
from ssmtool.pipeline.selective_hsv import CalibratedHsv, calibrated_hsv, on_runner
from ssmtool.pipeline.stages import Stages, ran_by
from ssmtool.pipeline.tokens import Tokens, TokenSource, read_tokens
from ssmtool.selective.refit import RefitOptions
from tests.pipeline.language_models import byte_model

KINDS = pytest.mark.parametrize("kind", ["mamba", "mamba2"])


class Killed(Exception):
    """Stands for the end of a process: nothing after it runs."""


def killer(label: str, moment: int) -> Callable[[str, int, int, str], None]:
    """Progress that ends the run when `moment` units of `label` are done."""

    def step(name: str, done: int, total: int, unit: str) -> None:
        if name.endswith(label) and done >= moment:
            raise Killed

    return step


class Counting:
    """A model's logits, counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, runner: Any) -> None:
        self.calls = 0
        original = type(runner).logits

        def logits(this: Any, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return original(this, *args, **kwargs)

        monkeypatch.setattr(type(runner), "logits", logits)


@pytest.fixture(autouse=True)
def _at_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "PAUSE", 0.0)
    monkeypatch.setattr(stages, "SHARE", 0.0)


def drawn(rows: int = 40, length: int = 24, seed: int = 1) -> Tokens:
    return Tokens(np.random.default_rng(seed).integers(0, 256, (rows, length)), "random tokens", "")


def same(first: CalibratedHsv, second: CalibratedHsv) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for one, other in zip(first.layers, second.layers, strict=True)
        for a, b in zip(one.spectra, other.spectra, strict=True)
        for name in ("values", "errors")
    )


@KINDS
def test_an_interrupted_calibration_goes_on(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ssmtool.load(byte_model(tmp_path / kind, kind))
    runner, tokens, cache = open_runner(model, "cpu"), drawn(), Cache(tmp_path / "kept")
    plain = calibrated_hsv(model, runner, tokens)
    with pytest.raises(Killed):
        calibrated_hsv(model, runner, tokens, cache=cache, step=killer("calibrating", 24))
    counting = Counting(monkeypatch, runner)
    assert same(calibrated_hsv(model, runner, tokens, cache=cache), plain)
    assert counting.calls == 2  # of five batches
    assert same(calibrated_hsv(model, runner, tokens, cache=cache), plain)
    assert counting.calls == 2
    other = drawn(seed=2)
    assert same(calibrated_hsv(model, runner, other, cache=cache), calibrated_hsv(model, runner, other))


@pytest.mark.parametrize(
    ("label", "moment"), [("Taylor scores", 8), ("layers.1.mixer", 1), ("whole model", 2), ("whole model", 3)]
)
def test_an_interrupted_compress_goes_on(
    label: str, moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ssmtool.load(byte_model(tmp_path / "mamba", "mamba"))
    runner, tokens, cache = open_runner(model, "cpu"), drawn(12), Cache(tmp_path / "kept")
    select = "taylor" if label == "Taylor scores" else "elimination"

    def compress(name: str, **how: Any) -> bytes:
        options = RefitOptions(steps=6, last=3)
        compress_selective(model, runner, tokens, tmp_path / name, rank=4, how=select, options=options, **how)
        return (tmp_path / name / "model.safetensors").read_bytes()

    plain = compress("plain")
    with pytest.raises(Killed):
        compress("killed", cache=cache, step=killer(label, moment))
    assert not (tmp_path / "killed").exists()
    fitted = []
    refit = selective_layers.refit
    monkeypatch.setattr(selective_layers, "refit", lambda *args: fitted.append(args) or refit(*args))
    assert compress("again", cache=cache) == plain
    assert len(fitted) == {"Taylor scores": 2, "layers.1.mixer": 1, "whole model": 0}[label]
    fitted.clear()
    monkeypatch.setattr(selective_layers, "distil", None)
    assert compress("and again", cache=cache) == plain
    assert not fitted


def test_other_fits_are_not_taken_for_these(tmp_path: Path) -> None:
    model = ssmtool.load(byte_model(tmp_path / "mamba2", "mamba2"))
    runner, tokens, cache = open_runner(model, "cpu"), drawn(12), Cache(tmp_path / "kept")

    def compress(name: str, rank: int, cache: Cache | None, **options: Any) -> bytes:
        found = RefitOptions(**{"steps": 4, "last": 0, **options})
        compress_selective(model, runner, tokens, tmp_path / name, rank=rank, options=found, cache=cache)
        return (tmp_path / name / "model.safetensors").read_bytes()

    compress("first", 8, cache)
    for number, (rank, options) in enumerate([(4, {}), (8, {"steps": 5}), (8, {"seed": 1}), (8, {"last": 2})]):
        assert compress(f"kept{number}", rank, cache, **options) == compress(f"plain{number}", rank, None, **options)


def test_what_another_code_computes_is_not_kept(tmp_path: Path) -> None:
    model = ssmtool.load(byte_model(tmp_path / "mamba", "mamba"))
    runner = open_runner(model, "cpu")

    class Own:
        names, vocabulary = runner.names, runner.vocabulary

        def logits(self, tokens: Any, visit: Any = None) -> Any:
            return runner.logits(tokens, visit)

    calibrated_hsv(model, Own(), drawn(), cache=Cache(tmp_path / "kept"))
    assert not (tmp_path / "kept").exists()


def test_an_entry_of_other_layers_is_as_good_as_none(tmp_path: Path) -> None:
    """Nobody but a program with the same key writes one; whatever it holds, the result is right."""
    model = ssmtool.load(byte_model(tmp_path / "mamba", "mamba"))
    runner, tokens, cache = open_runner(model, "cpu"), drawn(), Cache(tmp_path / "kept")
    plain = calibrated_hsv(model, runner, tokens)
    names = [layer.name for layer in model.layers]
    stage = Stages(cache, ran_by(runner), (model,), tokens.array).stage("calibration", names, 8)
    for done in (3, 99, 0, np.inf, np.nan, [1, 2]):
        stage.keep(lambda done=done: {"done": np.array(done)})
        assert same(calibrated_hsv(model, runner, tokens, cache=cache), plain)
    parts = on_runner({layer.name: model.mixers(layer) for layer in model.layers}, runner)
    arrays = fit_arrays(parts, Fit(2.0, 1.0, 3))
    assert fit_of(parts, arrays)[1] == Fit(2.0, 1.0, 3)
    first = next(key for key in arrays if not key.startswith("fit "))
    for wrong in ({**arrays, first: np.zeros(1)}, {k: array for k, array in arrays.items() if k != first}, {}):
        stage.keep(lambda wrong=wrong: wrong)
        assert stage.recall(partial(fit_of, parts)) is None


def test_what_a_model_draws_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ssmtool.load(byte_model(tmp_path / "mamba", "mamba"))
    runner, cache = open_runner(model, "cpu"), Cache(tmp_path / "kept")
    source = TokenSource(sampled=3, length=12)
    plain = read_tokens(source, model, runner).array
    assert np.array_equal(read_tokens(source, model, runner, cache=cache).array, plain)
    other = TokenSource(sampled=3, length=12, seed=1)
    assert not np.array_equal(read_tokens(other, model, runner, cache=cache).array, plain)
    monkeypatch.setattr("ssmtool.pipeline.generate.sample", None)
    assert np.array_equal(read_tokens(source, model, runner, cache=cache).array, plain)


def test_a_checkpoint_that_changed_is_refused(tmp_path: Path) -> None:
    """Results of the old weights would be kept under the hash of the new ones."""
    model = ssmtool.load(byte_model(tmp_path / "mamba", "mamba"))
    runner = open_runner(model, "cpu")
    file = tmp_path / "mamba" / "model.safetensors"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(ssmtool.errors.CheckpointError, match="chang"):
        calibrated_hsv(model, runner, drawn(), cache=Cache(tmp_path / "kept"))
    assert not (tmp_path / "kept").exists()
