"""Judging: statuses, entries and layers, what is measured, what is kept."""

from __future__ import annotations

import numpy as np
import pytest

from ssmtool.cache import Cache
from ssmtool.checks.check import check
from ssmtool.checks.policy_file import read_policy
from ssmtool.errors import UsageError
from ssmtool.pipeline.model import Model, load
from tests.checks.models import checked, parts, values, write


@pytest.fixture
def model(tmp_path):
    return write(tmp_path / "model.safetensors", {"a": parts(0), "b": parts(1)})


@pytest.mark.parametrize(
    ("changes", "status", "passed", "strictly"),
    [
        (["order.max=8"], "passed", True, True),
        (["order.max=1"], "error", False, False),
        (["order.max=1", "order.severity=warn"], "warning", True, False),
        (["order.energy=0.9"], "measured", True, True),
        (["order.max_increase=1"], "skipped", True, True),
        (["order.max=8", "order.max_increase=1"], "passed", True, True),
        (["order.min=8", "order.max_increase=1"], "error", False, False),
    ],
)
def test_statuses(model, changes, status, passed, strictly):
    found = checked(model, *changes)
    assert {finding.status for finding in found.findings} == {status}
    assert (found.passed(), found.passed(strict=True)) == (passed, strictly)
    assert sum(found.counts.values()) == found.counts[status] == 2


def test_messages(model):
    assert checked(model, "order.max=1").findings[0].message == "7 of 8, more than 1"
    assert checked(model, "order.max=1").findings[0].identifier == "order.max"
    assert checked(model, 'order.max="50%"').findings[0].message == "7 of 8 (87.5 %), more than 50 %"
    both = checked(model, "order.max=1", "order.min=8").findings[0]
    assert (both.identifier, both.message) == ("order.min+max", "7 of 8, less than 8; 7 of 8, more than 1")
    assert checked(model, "order.max_increase=1").findings[0].message == "rise ≤ 1 not judged: no --baseline"


@pytest.mark.parametrize(("skipped", "status"), [("note", "skipped"), ("warn", "warning"), ("error", "error")])
def test_what_a_skip_is_can_be_chosen(model, tmp_path, skipped, status):
    file = tmp_path / "ssmtool.toml"
    file.write_text(f"[check]\ndefaults = false\nskipped = '{skipped}'\n[check.rules]\nreach = 'warn'\n")
    (finding, _) = check([load(model)], read_policy(file), cache=Cache(None)).findings
    assert (finding.status, finding.reason) == (status, "a linear layer has no hidden attention: use the rule horizon")


def test_entries_for_some_layers(model, tmp_path):
    file = tmp_path / "ssmtool.toml"
    file.write_text(
        "[check]\ndefaults = false\n[[check.rules.order]]\nmax = 1\n[[check.rules.order]]\nmax = 8\nlayers = 'b'\n"
    )
    found = check([load(model)], read_policy(file), cache=Cache(None)).findings
    assert [(f.layer, f.status) for f in found] == [("a", "error"), ("b", "passed")]


def test_globs_that_match_nothing_are_an_error(model, tmp_path):
    with pytest.raises(UsageError, match=r"no layer matches 'encoder\.\*'.*Layers: a, b"):
        checked(model, "order.max=1", "order.layers='encoder.*'")
    policy = read_policy(None).with_setting("layers", ["c"])
    with pytest.raises(UsageError, match="no layer matches 'c'"):
        check([load(model)], policy, cache=Cache(None))
    # a glob may be for another of several models
    other = write(tmp_path / "other.safetensors", {"encoder.0": parts(2)})
    policy = read_policy(None, ["order.max=1", "order.layers='encoder.*'"]).only(["order"])
    found = check([load(model), load(other)], policy, cache=Cache(None))
    assert [finding.layer for finding in found.findings] == ["encoder.0"]


def test_names_with_brackets_are_not_taken_for_globs(tmp_path):
    path = write(tmp_path / "model.safetensors", {"a[0]": parts(0), "a0": parts(1)})
    names = [finding.layer for finding in checked(path, "order.max=1").findings]
    assert sorted(names) == ["a0", "a[0]"]
    found = checked(path, "margin.min=0").findings
    assert sorted((finding.layer, finding.status) for finding in found) == [("a0", "passed"), ("a[0]", "passed")]


def test_the_model_as_a_whole_is_unknown_if_a_layer_is(tmp_path):
    path = write(tmp_path / "model.safetensors", {"a": parts(0), "b": parts(1, slots=2)})
    (finding,) = checked(path, "reduced_size.rank=6", "reduced_size.scope=model").findings
    assert (finding.layer, finding.status) == ("", "skipped")
    assert finding.message == "b: has 4 states, fewer than rank 6"


def test_only_what_the_rules_need_is_measured(model, monkeypatch):
    """Stability reads eigenvalues: no Hankel singular values, no reduction, no tokens."""

    def refuse(*_, **__):
        raise AssertionError("measured without need")

    monkeypatch.setattr("ssmtool.lti.hankel.hankel_singular_values", refuse)
    monkeypatch.setattr("ssmtool.pipeline.reduce.reduce_layer", refuse)
    monkeypatch.setattr("ssmtool.pipeline.runner.open_runner", refuse)
    assert values(checked(model, "unstable.max=0")) == [0, 0]


def test_a_second_run_reads_no_tensor_as_numbers(model, tmp_path, monkeypatch):
    changes = (
        "order.max=1", "unstable.max=0", "margin.min=0", "horizon.max=1", "reduced_size.rank=4",
        "reduced_error.rank=4", "reach.max=1",
    )  # fmt: skip
    cache = Cache(tmp_path / "cache")
    first = checked(model, *changes, cache=cache)

    def refuse(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(Model, "arrays", refuse)
    monkeypatch.setattr(Model, "hsv", refuse)
    second = checked(model, *changes, cache=cache)
    assert [vars(finding) for finding in second.findings] == [vars(finding) for finding in first.findings]


@pytest.mark.parametrize("damage", ["remove", "truncate", "garbage", "other"])
def test_a_cache_that_is_damaged_changes_nothing(model, tmp_path, damage):
    changes = ("order.max=1", "reduced_size.rank=4", "reach.max=1")
    cache = Cache(tmp_path / "cache")
    first = checked(model, *changes, cache=cache)
    entries = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(entries) > 3
    for path in entries:
        if damage == "remove":
            path.unlink()
        elif damage == "other":  # whole, and of another computation
            cache.put(path.name, {"something": np.zeros(3)})
        else:
            path.write_bytes(path.read_bytes()[:40] if damage == "truncate" else b"\x00" * 99)
    second = checked(model, *changes, cache=Cache(tmp_path / "cache"))
    assert [vars(finding) for finding in second.findings] == [vars(finding) for finding in first.findings]


def test_other_weights_and_other_keys_are_measured_anew(model, tmp_path):
    cache = Cache(tmp_path / "cache")
    one = values(checked(model, "order.energy=0.9", cache=cache))
    assert values(checked(model, "order.energy=0.999", cache=cache)) != one
    changed = write(tmp_path / "changed.safetensors", {"a": parts(5), "b": parts(1)})
    assert values(checked(changed, "margin.min=0", cache=cache)) != values(checked(model, "margin.min=0", cache=cache))
    found = values(checked(changed, "order.energy=0.9", cache=cache))
    assert found == values(checked(changed, "order.energy=0.9"))
