"""One layer by the best of several methods, with unstable states, and in layouts that only a subset respects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ssmtool import plugins
from ssmtool.errors import ReductionError, UsageError
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.split import split
from ssmtool.pipeline import reduce as reducing
from ssmtool.pipeline.compress import compress
from ssmtool.pipeline.methods import How, candidates, checked
from ssmtool.pipeline.model import load
from ssmtool.reductions._contract import Options
from tests.pipeline.checkpoints import systems_of, tiny, write_folder, written

METHODS = plugins.names("ssmtool.reductions")
FREE = [
    name for name in METHODS if name != "subset" and not {"seen"} & set(plugins.load("ssmtool.reductions", name).NEEDS)
]


def folder_of(tmp_path, family="neutral", variant="siso", change=None):
    tensors, config = tiny(family, variant)
    if change:
        change(tensors)
    return write_folder(tmp_path / "model", tensors, config)


def options_for(name):
    needs = plugins.load("ssmtool.reductions", name).NEEDS
    return {name: value for name, value in {"horizon": 30, "band": (0.0, 1.0)}.items() if name in needs}


def push_out(tensors):
    """One pole of the first layer outside the unit circle."""
    poles = tensors[next(name for name in tensors if name.endswith("lambda_log"))]
    (torch.view_as_real(poles) if poles.is_complex() else poles).view(-1, 2)[0, 0] = 0.01


def layer_of(folder, index=0):
    model = load(folder)
    return model, model.layers[index]


def test_best_keeps_the_least_h2_error(tmp_path):
    folder = folder_of(tmp_path)
    best = compress(load(folder), None, rank=4, method="best", dry_run=True, device="cpu")
    for index, row in enumerate(best.layers):
        tried = dict(row.tried)
        assert set(tried) == {n for n in METHODS if not plugins.load("ssmtool.reductions", n).NEEDS}
        assert tried[row.method] <= 1.01 * min(tried.values())
        for name in tried:
            alone = compress(load(folder), None, rank=4, method=name, dry_run=True, device="cpu").layers[index]
            expected = np.sqrt(np.square(alone.h2).sum() / np.square(alone.h2_norm).sum())
            assert tried[name] == pytest.approx(expected, rel=1e-9)
            assert alone.tried == ()


def test_ties_go_to_the_simplest(tmp_path, monkeypatch):
    folder = folder_of(tmp_path)
    order = []

    def score(system, stored, row, seen):
        order.append(row.method)
        return 1.0 - 0.001 * len(order)

    monkeypatch.setattr(reducing, "_score", score)
    row = compress(load(folder), None, rank=4, method="best", dry_run=True, device="cpu").layers[0]
    complexity = {name: plugins.load("ssmtool.reductions", name).COMPLEXITY for name in METHODS}
    names = order[: len(order) // len(load(folder).layers)]
    assert [complexity[name] for name in names] == sorted(complexity[name] for name in names)
    assert row.method == names[0]


def test_a_per_cent_is_what_a_simpler_method_may_lose(tmp_path, monkeypatch):
    folder, scores = folder_of(tmp_path), {"balanced": 1.02, "modal": 1.02, "subset": 1.02}
    monkeypatch.setattr(reducing, "_score", lambda system, stored, row, seen: scores.get(row.method, 1.0))
    row = compress(load(folder), None, rank=4, method="best", dry_run=True, device="cpu").layers[0]
    assert row.method not in scores


@pytest.mark.parametrize("method", [*FREE, "best"])
def test_unstable_states_are_kept_by_every_method(tmp_path, method):
    folder = folder_of(tmp_path, change=push_out)
    given = {} if method == "best" else options_for(method)
    done = compress(load(folder), tmp_path / "out", rank=4, method=method, device="cpu", **given)
    before: Any
    after: Any
    _, before = next(iter(systems_of(folder, "neutral", None).values()))
    _, after = next(iter(systems_of(written(done), "neutral", None).values()))
    outside: list[Any] = [split(system)[1] for system in (before, after)]
    one, two = (impulse_response(part, 60)[0] for part in outside)
    np.testing.assert_allclose(two, one, atol=1e-5 * np.abs(one).max())
    assert after.slots < before.slots
    assert "outside the unit circle: kept" in done.layers[0].remarks[0]
    assert done.layers[1].remarks == ()
    assert np.isfinite(done.layers[0].hinf_relative)
    assert done.layers[0].orders.max() <= 4
    if method == "best":  # measured on the stable part: the unstable one would outgrow everything
        assert max(dict(done.layers[0].tried).values()) < 10


@pytest.mark.parametrize(("family", "variant"), [("dss", "exp"), ("s4", "v4-real")])
def test_layouts_that_share_poles_or_store_real_ones_get_a_subset(tmp_path, family, variant):
    folder = folder_of(tmp_path, family, variant)
    _, layer = layer_of(folder)
    options = Options()
    assert candidates(layer, How("best"), options) == ("subset",)
    assert candidates(layer, How("balanced"), options) == ("subset",)
    with pytest.raises(ReductionError, match="Use --method subset"):
        candidates(layer, How("modal"), options)
    assert candidates(layer, How("time_limited", horizon=9, by_name=False), Options(horizon=9)) == ("subset",)
    done = compress(load(folder), None, rank=2, method="best", dry_run=True, device="cpu")
    assert all(row.method == "subset" and [name for name, _ in row.tried] == ["subset"] for row in done.layers)


def test_what_cannot_be_asked_is_no_candidate(tmp_path):
    _, layer = layer_of(folder_of(tmp_path))
    without = candidates(layer, How("best"), Options())
    with_all = candidates(layer, How("best"), Options(horizon=9, band=(0.0, 1.0)))
    assert set(without) < set(with_all)
    assert "time_limited" in set(with_all) - set(without)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (How("balanced", horizon=8), "takes no --horizon"),
        (How("balanced", band=(0.0, 1.0)), "takes no --band"),
        (How("balanced", score="h2"), "takes no --score"),
        (How("modal", score="best"), "no score"),
        (How("time-limited"), "needs --horizon"),
        (How("time-limited", horizon=0), "--horizon 0"),
        (How("best", band=(1.0, 4.0)), "not within 0 and pi"),
        (How("best", band=(2.0, 1.0)), "not within 0 and pi"),
    ],
)
def test_options_that_a_method_cannot_use_are_refused(how, reason):
    with pytest.raises(UsageError, match=reason):
        checked(how, calibrated=False)


def test_dashes_are_underscores_and_residues_take_a_horizon():
    assert checked(How("time-limited", horizon=4), calibrated=False).method == "time_limited"
    assert checked(How("balanced", horizon=4, residues=True), calibrated=False).horizon == 4


def test_padding_and_slots_are_those_asked_for(tmp_path):
    folder = folder_of(tmp_path)
    done = compress(load(folder), tmp_path / "out", rank=2, pad_to=2, device="cpu")
    assert {row.slots for row in done.layers} == {2}
    assert all(layer.slots == 2 for layer, _ in systems_of(written(done), "neutral", None).values())
