"""A second report computes nothing that the first one kept, and is the same to the byte; times are always measured."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import ssmtool
from ssmtool import plugins
from ssmtool.cache import Cache
from ssmtool.errors import CheckpointError, MismatchError
from ssmtool.pipeline import diagnose as diagnosing
from ssmtool.pipeline import kept_validation, look, scans, stages
from ssmtool.pipeline.look import Look, LookWork, counterpart
from ssmtool.pipeline.portrait import Portrait, portrait
from ssmtool.pipeline.reduction_work import ReductionWork
from ssmtool.pipeline.section_rows import ANALYSES, RowsWork, section_type, with_rows
from ssmtool.pipeline.selective_validation import SelectiveValidation
from ssmtool.pipeline.spectra import HsvWork
from ssmtool.pipeline.tokens import TokenSource
from ssmtool.pipeline.validation import LayerValidation
from ssmtool.report.overview import view
from ssmtool.report.overview.html import html
from ssmtool.selective.language import LanguageModel
from ssmtool.selective.refit import RefitOptions
from tests.pipeline.checkpoints import CASES, tiny, write_folder
from tests.pipeline.language_models import byte_model, hybrid, saved

TOKENS = TokenSource(sampled=6, length=32)


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """What was computed, not looked up."""
    done: list[str] = []

    def counted(place: Any, name: str) -> None:
        original = getattr(place, name)

        def count(*args: Any, **kwargs: Any) -> Any:
            if name != "_weights" or args[1]:  # of a model with selective layers
                done.append(f"{getattr(place, '__name__', place)}.{name}".rpartition("pipeline.")[2])
            return original(*args, **kwargs)

        monkeypatch.setattr(place, name, count)

    for work in (HsvWork, ReductionWork, LookWork, RowsWork):
        counted(work, "compute")
    counted(kept_validation, "validate")
    counted(kept_validation, "scan_seconds")
    counted(diagnosing, "_weights")
    counted(LanguageModel, "logits")
    return done


@pytest.fixture
def pair(tmp_path):
    """Two S4D layers and a reduction of them."""
    model = ssmtool.load(write_folder(tmp_path / "model", *tiny("s4d", "s4d")))
    ssmtool.compress(model, tmp_path / "reduced", rank=2)
    return model, ssmtool.load(tmp_path / "reduced")


def page(*args: Any, **options: Any) -> str:
    return html(view(portrait(*args, **options)))


def validated(found: Portrait) -> tuple[LayerValidation, ...]:
    assert found.validation is not None
    return found.validation.layers


def compared(found: Portrait) -> SelectiveValidation:
    assert found.language is not None
    return found.language


def test_a_second_report_of_a_linear_model_computes_nothing(pair, tmp_path, calls):
    cache = Cache(tmp_path / "kept")
    first = page(*pair, ranks=(2, 3), timings=False, cache=cache)
    assert sorted(calls) == sorted(
        ["HsvWork.compute", "LookWork.compute", "RowsWork.compute", *2 * ["ReductionWork.compute"]] * 2
    )
    calls.clear()
    assert page(*pair, ranks=(2, 3), timings=False, cache=cache) == first
    assert not calls
    assert page(*pair, ranks=(2, 3), timings=False) == first


def test_times_are_measured_every_time_and_nothing_else_is(pair, tmp_path, calls):
    cache = Cache(tmp_path / "kept")
    first = portrait(*pair, cache=cache)
    assert calls.count("kept_validation.validate") == 2  # layer by layer
    calls.clear()
    again, without = portrait(*pair, cache=cache), portrait(*pair)
    assert calls[:4] == ["kept_validation.scan_seconds"] * 4
    assert calls.count("kept_validation.validate") == 1
    timeless = {"seconds_original": 0.0, "seconds_reduced": 0.0}
    for one, two, three in zip(*(validated(found) for found in (first, again, without)), strict=True):
        assert two.seconds_original > 0
        assert two.seconds_reduced > 0
        assert replace(one, **timeless) == replace(two, **timeless) == replace(three, **timeless)


def test_what_a_first_scan_loads_is_not_its_time(pair, monkeypatch):
    done: list[str] = []
    scan = scans.diagonal_scan
    monkeypatch.setattr(scans, "diagonal_scan", lambda *args, **options: done.append("scan") or scan(*args, **options))
    monkeypatch.setattr(scans, "best", lambda run, device: done.append("clock") or 1.0)
    system = pair[0].system(pair[0].layers[0])
    u = np.ones((system.systems, 8, system.inputs))
    assert scans.scan_seconds(system, u, torch.device("cpu"), "naive") == 1.0
    assert done == ["scan", "clock"]


def test_a_run_that_ends_early_has_kept_the_layers_it_validated(pair, tmp_path, calls, monkeypatch):
    cache, before = Cache(tmp_path / "kept"), kept_validation.validate

    def second_fails(*args: Any, **options: Any) -> Any:
        if options["layers"] != ["s4_layers.0"]:
            raise KeyboardInterrupt
        return before(*args, **options)

    monkeypatch.setattr(kept_validation, "validate", second_fails)
    with pytest.raises(KeyboardInterrupt):
        portrait(*pair, cache=cache)
    monkeypatch.setattr(kept_validation, "validate", before)
    calls.clear()
    portrait(*pair, cache=cache)
    assert calls.count("kept_validation.validate") == 1


def test_a_checkpoint_without_a_record_is_validated_in_one_call(pair, tmp_path, calls):
    file = tmp_path / "reduced" / "model.safetensors"
    save_file(load_file(file), file)
    model, bare, cache = pair[0], ssmtool.load(tmp_path / "reduced"), Cache(tmp_path / "kept")
    first = portrait(model, bare, cache=cache)
    assert calls.count("kept_validation.validate") == 1
    again = portrait(model, bare, cache=cache)
    assert calls.count("kept_validation.validate") == 1
    assert [row.bound for row in validated(first)] == [row.bound for row in validated(again)]


def test_another_models_reduction_is_refused_whatever_was_kept(pair, tmp_path):
    model, reduced = pair
    cache = Cache(tmp_path / "kept")
    portrait(model, reduced, cache=cache)
    tensors, config = tiny("s4d", "s4d")
    other = ssmtool.load(write_folder(tmp_path / "other", {**tensors, "more": torch.ones(3)}, config))
    with pytest.raises(MismatchError):
        portrait(other, reduced, cache=cache)


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_every_family_is_the_same_to_the_byte(tmp_path, calls, family, variant):
    model = ssmtool.load(write_folder(tmp_path / "model", *tiny(family, variant)))
    pages = [page(model, cache=Cache(folder)) for folder in (None, tmp_path / "kept", tmp_path / "kept")]
    assert pages[0] == pages[1] == pages[2]
    assert len(calls) == 2 * 3 * len(model.layers)


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_a_second_report_on_tokens_runs_no_model(tmp_path, calls, kind):
    model, cache = ssmtool.load(byte_model(tmp_path / kind, kind)), Cache(tmp_path / "kept")
    first = page(model, source=TOKENS, cache=cache)
    assert "LanguageModel.logits" in calls
    calls.clear()
    assert page(model, source=TOKENS, cache=cache) == first
    assert not calls
    assert page(model, source=TOKENS) == first
    calls.clear()
    assert page(model, cache=cache) == page(model, cache=cache) == page(model)  # weights alone
    assert calls.count("diagnose._weights") == 2


def test_a_comparison_on_tokens_is_kept_but_for_its_times(tmp_path, calls, monkeypatch):
    model = ssmtool.load(byte_model(tmp_path / "model", "mamba2"))
    runner = ssmtool.open_runner(model, "cpu")
    tokens = ssmtool.read_tokens(TOKENS, model, runner)
    ssmtool.compress_selective(model, runner, tokens, tmp_path / "small", rank=8, options=RefitOptions(steps=0))
    small, cache = ssmtool.load(tmp_path / "small"), Cache(tmp_path / "kept")
    first = compared(portrait(model, small, source=TOKENS, cache=cache))
    calls.clear()
    again = compared(portrait(model, small, source=TOKENS, cache=cache))
    assert len(calls) == 1  # one batch, for the times of the scans
    without = compared(portrait(model, small, source=TOKENS))
    assert first.language == again.language == without.language
    for rows in zip(first.layers, again.layers, without.layers, strict=True):
        one, two, three = (replace(row, scan=replace(row.scan, seconds=(0.0, 0.0))) for row in rows)
        assert one == two == three
        assert min(rows[1].scan.seconds) > 0


def test_a_comparison_that_was_cut_short_goes_on(tmp_path, calls, monkeypatch):
    monkeypatch.setattr(stages, "PAUSE", 0.0)
    monkeypatch.setattr(stages, "SHARE", 0.0)
    model = ssmtool.load(byte_model(tmp_path / "model", "mamba"))
    runner = ssmtool.open_runner(model, "cpu")
    rows = TokenSource(sampled=40, length=16)
    tokens = ssmtool.read_tokens(rows, model, runner, cache=Cache(tmp_path / "kept"))
    ssmtool.compress_selective(model, runner, tokens, tmp_path / "small", rank=4, options=RefitOptions(steps=0))
    small, cache = ssmtool.load(tmp_path / "small"), Cache(tmp_path / "kept")
    plain = compared(portrait(model, small, source=rows, parts=("comparison",)))
    calls.clear()
    portrait(model, small, source=rows, parts=("comparison",), cache=Cache(tmp_path / "whole"))
    whole = len(calls)

    class Killed(Exception):
        pass

    for label, moment in (("predicting", 16), ("comparing layers", 16), ("comparing layers", 24)):

        def step(name: str, done: int, total: int, unit: str, at: tuple[str, int] = (label, moment)) -> None:
            if name == at[0] and at[1] <= done < total:
                raise Killed

        with pytest.raises(Killed):
            portrait(model, small, source=rows, parts=("comparison",), cache=cache, step=step)
    calls.clear()
    last = compared(portrait(model, small, source=rows, parts=("comparison",), cache=cache))
    assert 0 < len(calls) < whole
    assert last.language == plain.language
    errors = [[(row.scan_error, row.out_error, row.scan.errors) for row in found.layers] for found in (last, plain)]
    assert errors[0] == errors[1]


def test_a_hybrid_on_tokens(tmp_path, calls):
    model, cache = ssmtool.load(saved(hybrid("bamba"), tmp_path / "model")), Cache(tmp_path / "kept")
    first = page(model, source=TOKENS, cache=cache)
    calls.clear()
    assert page(model, source=TOKENS, cache=cache) == first
    assert not calls


@pytest.mark.parametrize("source", [None, TOKENS])
def test_linear_and_selective_layers_stand_in_the_order_of_depth(tmp_path, source):
    """Observers have linear layers first; here they come last."""
    folder = byte_model(tmp_path / "model", "mamba2")
    tensors, _ = tiny("s4d", "s4d")
    names = {f"tail.{name}": array.numpy() for name, array in tensors.items()}
    save_file({**load_file(folder / "model.safetensors"), **names}, folder / "model.safetensors")
    model = ssmtool.load(folder)
    found = portrait(model, source=source, cache=Cache(tmp_path / "kept"))
    order = [row.layer.name for row in found.layers]
    assert [row.layer.lti for row in found.layers] == [False, False, True, True]
    assert found.diagnosis is not None
    for name in ("timescales", "memory", "parametrisation", "state_tracking"):
        rows: Any = vars(found.diagnosis.sections[name])["layers"]
        assert [row.name for row in rows] == order
    again = portrait(model, source=source, cache=Cache(tmp_path / "kept"))
    assert html(view(again)) == html(view(found))


def test_sections_are_kept_one_by_one(tmp_path, monkeypatch):
    """What `run` of a later section did not live to see does not cost the earlier ones."""
    model, cache = ssmtool.load(byte_model(tmp_path / "model", "mamba")), Cache(tmp_path / "kept")
    runner = ssmtool.open_runner(model, "cpu")
    tokens = ssmtool.read_tokens(TOKENS, model, runner)
    observer = type(plugins.load(ANALYSES, "relevance").start())
    run = observer.run

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(observer, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        diagnosing.diagnose(model, runner=runner, tokens=tokens, cache=cache)
    monkeypatch.setattr(observer, "run", run)
    seen: list[str] = []
    for name in plugins.names(ANALYSES):
        kind = type(plugins.load(ANALYSES, name).start())
        monkeypatch.setattr(kind, "result", _named(kind.result, name, seen))
    again = diagnosing.diagnose(model, runner=runner, tokens=tokens, cache=cache)
    late = list(plugins.names(ANALYSES))[list(plugins.names(ANALYSES)).index("relevance") :]
    assert seen == late
    assert again.sections == diagnosing.diagnose(model, runner=runner, tokens=tokens).sections


def test_only_the_sections_that_were_asked_for_are_made(pair, calls):
    found = portrait(pair[0], parts=("diagnosis",), sections=["timescales"]).diagnosis
    assert found is not None
    assert set(found.sections) == {"timescales"}


def _named(result: Any, name: str, seen: list[str]) -> Any:
    def call(self: Any) -> Any:
        seen.append(name)
        return result(self)

    call.__annotations__ = {"return": section_type(name)}
    return call


@pytest.mark.parametrize("name", plugins.names(ANALYSES))
def test_annotations_name_what_is_kept(name):
    """`row` and `result` of every section; a new section is found by its name."""
    observer = plugins.load(ANALYSES, name).start()
    assert type(observer.result()) is section_type(name)
    assert (name in with_rows((name,))) == ("row" in vars(type(observer)))


def work(pair: Any, **changes: Any) -> LookWork:
    model, reduced = pair
    parts = frozenset({"poles", "responses", "sizes", "orders", "error"})
    other = counterpart(reduced, reduced.layers[0], {})
    return replace(LookWork(parts, (1, 2), None, np.ones(model.layers[0].systems), "layout", other), **changes)


def test_all_that_a_look_depends_on_is_in_its_key(pair, monkeypatch):
    one = work(pair)
    assert one.other is not None
    others = [
        work(pair, parts=frozenset({"poles"})), work(pair, positions=(1, 3)), work(pair, systems=(0,)),
        work(pair, norm=2 * np.ones_like(one.norm)), work(pair, norm=None), work(pair, layout="other"),
        work(pair, other=None), work(pair, other=replace(one.other, content="other")),
        work(pair, other=replace(one.other, order=1)), work(pair, other=replace(one.other, fitted=True)),
    ]  # fmt: skip
    keys = {one.key("content"), one.key("other content"), *(other.key("content") for other in others)}
    assert len(keys) == 2 + len(others)
    monkeypatch.setattr(look, "version_of", lambda *packages: "another release")
    assert one.key("content") not in keys


def test_another_process_finds_the_reduced_model_itself(pair):
    one = work(pair)
    sent = pickle.loads(pickle.dumps(one))
    layer = pair[0].layers[0]
    here, there = one.compute(pair[0], layer, None), sent.compute(pair[0], layer, None)
    assert here.keys() == there.keys()
    assert all(np.array_equal(here[name], there[name]) for name in here)
    assert len(pickle.dumps(one)) < 20_000


def test_a_reduced_layer_that_changes_meanwhile_is_an_error(pair):
    one = work(pair)
    assert one.other is not None
    changed = replace(one, other=replace(one.other, content="what it was"))
    with pytest.raises(CheckpointError, match="changed while it was in use"):
        changed.compute(pair[0], pair[0].layers[0], None)


def test_an_entry_that_is_nothing_of_the_kind_is_computed_again(pair, tmp_path):
    folder = tmp_path / "kept"
    first = page(*pair, timings=False, cache=Cache(folder))
    for entry in (folder / "results").iterdir():
        Cache(folder).put(entry.name, {"tree": np.frombuffer(b'{"poles": 3}', np.uint8)})
    assert page(*pair, timings=False, cache=Cache(folder)) == first
    layer = pair[0].layers[0]
    kept = work(pair).compute(pair[0], layer, None)
    assert isinstance(work(pair).result(layer, kept), Look)
    with pytest.raises(ValueError, match="ranks"):
        work(pair, positions=(1,)).result(layer, kept)
    with pytest.raises(ValueError, match="not of this layer"):
        work(pair).result(replace(layer, systems=1), kept)


def test_a_folder_that_is_deleted_costs_time_only(pair, tmp_path):
    cache = Cache(tmp_path / "kept")
    first = page(*pair, timings=False, cache=cache)
    for entry in Path(tmp_path / "kept" / "results").iterdir():
        entry.unlink()
    assert page(*pair, timings=False, cache=cache) == first
