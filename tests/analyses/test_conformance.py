"""What every section has to keep, on every kind of layer. A new analysis is found by its name; nothing to add here."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from ssmtool import plugins
from ssmtool.analyses._contract import Section
from ssmtool.report.section_plot import draw
from ssmtool.selective.language import LanguageModel
from ssmtool.selective.mixers import Mixer, to_torch
from tests.analyses.mixers import random_diagonal, random_scalar, shown, stream
from tests.lti.samples import dense, mixed, real_stored, ring

PACKAGE = "ssmtool.analyses"
ANALYSES = plugins.names(PACKAGE)
SYSTEMS = {"SISO": ring(3, 4), "MIMO": mixed(2, 4, 2, 3), "real-stored": real_stored(2, 5), "dense": dense(2, 5, 2, 1)}
MIXERS: dict[str, Mixer] = {"diagonal": random_diagonal(), "scalar": random_scalar(width=4)}


def model() -> tuple[LanguageModel, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    norm = torch.ones(4, dtype=torch.float64)
    mixers = {name: (to_torch(mixer, torch.float64),) for name, mixer in MIXERS.items()}
    runner = LanguageModel(table, table, dict.fromkeys(MIXERS, norm), mixers, norm, 1e-5)
    return runner, torch.randint(0, 9, (8, 24), generator=generator)


def weights_alone(name: str) -> Section:
    observer = plugins.load(PACKAGE, name).start()
    for label, system in SYSTEMS.items():
        observer.linear(label, system)
    for label, mixer in MIXERS.items():
        observer.selective(label, mixer)
    return observer.result()


def with_tokens(name: str) -> Section:
    observer = plugins.load(PACKAGE, name).start()
    runner, tokens = model()
    for label, mixer in MIXERS.items():
        observer.selective(label, mixer)
        seen = shown(mixer, stream(8, 24), tokens)
        observer.see(type(seen)(label, tokens, seen.stream, seen.update, {label: seen.passes["m"]}))
    observer.run(runner, tokens)
    return observer.result()


def nothing(name: str) -> Section:
    return plugins.load(PACKAGE, name).start().result()


RUNS = {"weights alone": weights_alone, "with tokens": with_tokens, "nothing at all": nothing}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", ANALYSES)
def test_a_section_is_plain_data_and_shows_itself(name, run):
    section = RUNS[run](name)
    json.dumps(asdict(section))  # nothing but numbers, text, lists and objects
    for table in section.tables():
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert all(isinstance(cell, str | int | float | None) for row in table.rows for cell in row)
    for panel in section.panels():
        assert panel.curves
        # What fits a page's charts: 396 and 264 of their units, at about 6.9 to a letter.
        assert len(panel.x_label) <= 57
        assert len(panel.y_label) <= 38
        for curve in panel.curves:
            assert len(curve.x) == len(curve.y) > 0
            assert np.isfinite(np.array(curve.y)).all()
    if section.panels():
        figure = draw(section.panels(), name)
        assert len(figure.axes) == len(section.panels())
    for verdict in section.verdicts:
        assert verdict.text
        assert not verdict.text.endswith(".")


@pytest.mark.parametrize("name", ANALYSES)
def test_without_tokens_it_says_what_would_need_some(name):
    section = weights_alone(name)
    assert any("--tokens" in sentence for sentence in section.missing)
    assert not any("--tokens" in sentence for sentence in with_tokens(name).missing)


@pytest.mark.parametrize("name", ANALYSES)
def test_it_has_a_summary_and_a_reference(name):
    module = plugins.load(PACKAGE, name)
    assert module.SUMMARY
    assert module.REFERENCE


@pytest.mark.parametrize("name", ANALYSES)
def test_looking_changes_nothing(name):
    seen = shown(MIXERS["diagonal"], stream())
    before = [part.clone() for part in (seen.stream, seen.update, seen.passes["m"].trace.dt, seen.passes["m"].trace.B)]
    observer = plugins.load(PACKAGE, name).start()
    observer.selective("m", MIXERS["diagonal"])
    observer.see(seen)
    observer.result()
    after = (seen.stream, seen.update, seen.passes["m"].trace.dt, seen.passes["m"].trace.B)
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
