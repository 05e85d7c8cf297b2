"""One pass over weights and one over tokens: every family, both ways to run a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ssmtool import plugins
from ssmtool.analyses._contract import Observer, Panel, Section, Seen, Table
from ssmtool.errors import CalibrationError, FamilyError, UsageError
from ssmtool.families._contract import Layer
from ssmtool.lti.factors import resolve_device
from ssmtool.pipeline import diagnose as module
from ssmtool.pipeline.diagnose import ANALYSES, by_depth, diagnose
from ssmtool.pipeline.model import load
from ssmtool.pipeline.runner import open_runner
from ssmtool.pipeline.tokens import Tokens
from ssmtool.selective.language import LanguageModel
from tests.pipeline.checkpoints import PACKAGE, tiny, write_folder
from tests.pipeline.language_models import byte_model, hybrid, saved

KINDS = ("mamba", "mamba2")
CASES = [(family, variant) for family in plugins.names(PACKAGE) for variant in plugins.load(PACKAGE, family).VARIANTS]


def some(rows: int = 9, length: int = 40) -> Tokens:
    return Tokens(np.random.default_rng(0).integers(0, 256, (rows, length)), "some", "")


@pytest.fixture(params=KINDS)
def model(request, tmp_path):
    return load(byte_model(tmp_path / request.param, request.param))


class Nothing(Section):
    """A section without numbers."""

    def tables(self) -> tuple[Table, ...]:
        return ()

    def panels(self) -> tuple[Panel, ...]:
        return ()


class Recorder(Observer):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def see(self, seen: Seen) -> None:
        self.seen.append(seen)

    def result(self) -> Section:
        return Nothing((), ())


@pytest.fixture
def recorder(monkeypatch) -> Recorder:
    """The observer of the section "timescales", replaced."""
    found = Recorder()
    real = module.plugins.load

    def load(package, name):
        if (package, name) != (ANALYSES, "timescales"):
            return real(package, name)
        return type("fake", (), {"start": staticmethod(lambda: found)})

    monkeypatch.setattr(module.plugins, "load", load)
    return found


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_every_family_from_its_weights_alone(family, variant, tmp_path):
    opened = load(write_folder(tmp_path / "model", *tiny(family, variant)))
    found = diagnose(opened)
    assert {layer.name for layer in found.layers} == {layer.name for layer in opened.layers}
    times = found.sections["timescales"]
    shown = [str(row[0]).partition("[")[0] for table in times.tables() for row in table.rows]
    assert set(shown) == {layer.name for layer in opened.layers}


def test_all_sections_on_tokens(model):
    steps = []
    runner = open_runner(model, "cpu")
    found = diagnose(model, runner=runner, tokens=some(), step=lambda *what: steps.append(what))
    assert (found.sequences, found.length) == (9, 40)
    assert not any("--tokens" in text for section in found.sections.values() for text in section.missing)
    assert ("layers × batches", 4) in {(what[3], what[2]) for what in steps}
    again = diagnose(model, runner=runner, tokens=some())
    assert again.sections == found.sections


def test_observers_see_every_layer_once_per_batch_and_the_model_s_own_numbers(model, recorder):
    runner = open_runner(model, "cpu")
    tokens = some()
    diagnose(model, ["timescales"], runner=runner, tokens=tokens)
    assert [seen.layer for seen in recorder.seen] == list(runner.names) * 2
    streams = []
    with torch.no_grad():
        runner.logits(torch.from_numpy(tokens.array[:8]), lambda name, x, stream: streams.append(stream))
    for seen, stream in zip(recorder.seen, streams, strict=False):
        torch.testing.assert_close(seen.stream, stream)
    first, second = recorder.seen[:2]
    torch.testing.assert_close(first.stream + first.update, second.stream)  # nothing but mixers between the two
    assert sum(len(seen.tokens) for seen in recorder.seen) == 2 * 9


def test_hooks_show_what_the_own_stack_shows(model, recorder):
    pytest.importorskip("transformers")
    from ssmtool.pipeline.hooked import HookedModel

    for runner in (open_runner(model, "cpu"), HookedModel(model, resolve_device("cpu"), torch.float32)):
        diagnose(model, ["timescales"], runner=runner, tokens=some(3, 24))
    half = len(recorder.seen) // 2
    for ours, theirs in zip(recorder.seen[:half], recorder.seen[half:], strict=True):
        assert ours.layer == theirs.layer
        torch.testing.assert_close(ours.stream, theirs.stream, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.update, theirs.update, rtol=1e-4, atol=1e-4)


def test_hooked_models_get_every_section_but_relevance(model):
    pytest.importorskip("transformers")
    from ssmtool.pipeline.hooked import HookedModel

    hooked = HookedModel(model, resolve_device("cpu"), torch.float32)
    theirs = diagnose(model, runner=hooked, tokens=some(4, 64)).sections
    ours = diagnose(model, runner=open_runner(model, "cpu"), tokens=some(4, 64)).sections
    assert "not available" in theirs["relevance"].missing[0]
    for table, other in zip(ours["memory"].tables(), theirs["memory"].tables(), strict=True):
        for row, same in zip(table.rows, other.rows, strict=True):
            assert row[0] == same[0]
            assert row[4:] == pytest.approx(same[4:], rel=1e-2)


@pytest.mark.parametrize("kind", ["bamba", "falcon_h1", "jamba", "zamba2", "falcon_mamba"])
def test_hybrids_are_measured_where_they_are_selective(kind, tmp_path):
    pytest.importorskip("transformers")
    opened = load(saved(hybrid(kind), tmp_path / kind))
    tokens = Tokens(np.random.default_rng(0).integers(3, 64, (4, 32)), "some", "")
    found = diagnose(opened, runner=open_runner(opened, "cpu"), tokens=tokens).sections
    rows = found["memory"].tables()[0].rows
    assert [row[0] for row in rows] == [layer.name for layer in opened.layers]
    assert all(row[2] is not None and row[-1] is not None for row in rows)
    assert ("not available" in " ".join(found["relevance"].missing)) == (kind != "falcon_mamba")


def test_what_is_used_of_many_tokens_is_bounded(model, recorder):
    diagnose(model, ["timescales"], runner=open_runner(model, "cpu"), tokens=some(200, 300))
    used = torch.cat([seen.tokens for seen in recorder.seen[:: len(model.layers)]])
    assert used.shape == (module.SEQUENCES, module.LENGTH)


def test_layers_and_sections_are_chosen(model):
    found = diagnose(model, ["memory", "timescales"], layers=["*.1.*"], runner=open_runner(model, "cpu"), tokens=some())
    assert list(found.sections) == ["memory", "timescales"]
    for section in found.sections.values():
        assert [row[0] for table in section.tables() for row in table.rows] == [model.layers[1].name]


def test_layers_are_in_order_of_depth():
    names = ["b.10.x", "b.2.x", "b.2.a", "a.11", "b.0.x"]
    layers = tuple(Layer(name, "f", "v", {}, 1, 1, 1, 1, 1) for name in names)
    assert [layer.name for layer in by_depth(layers)] == ["a.11", "b.0.x", "b.2.a", "b.2.x", "b.10.x"]
    zero = torch.zeros(1)
    runner = LanguageModel(zero, zero, dict.fromkeys(names, zero), {}, zero, 0.0)
    assert [layer.name for layer in by_depth(layers, runner)] == names


def test_refusals(model, tmp_path, monkeypatch):
    runner = open_runner(model, "cpu")
    with pytest.raises(UsageError, match="no section 'colour'"):
        diagnose(model, ["colour"])
    with pytest.raises(UsageError, match="come together"):
        diagnose(model, runner=runner)
    linear = load(write_folder(tmp_path / "s4d", *tiny("s4d", "s4d")))
    with pytest.raises(UsageError, match="no selected layer is selective"):
        diagnose(linear, runner=runner, tokens=some())
    read = type(model).mixers
    broken = lambda self, layer: tuple(replace(m, out=m.out * np.inf) for m in read(self, layer))  # noqa: E731
    monkeypatch.setattr(type(model), "mixers", broken)
    with pytest.raises(CalibrationError, match="not finite"):
        diagnose(model, ["timescales"], runner=open_runner(model, "cpu"), tokens=some())
    apart = lambda self, layer: tuple(replace(m, in_x=None) for m in read(self, layer))  # noqa: E731
    monkeypatch.setattr(type(model), "mixers", apart)
    with pytest.raises(FamilyError, match="not a sequence model"):
        diagnose(model, ["timescales"], runner=runner, tokens=some())
    if model.layers[0].family == "mamba":  # the weights of a scan alone say enough for these
        assert diagnose(model, ["timescales", "state_tracking", "parametrisation", "token_dynamics", "memory"]).sections
