"""Earlier documents: every rule finds its number again, and damaged documents are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ssmtool.__main__ import main
from ssmtool.checks.baseline import read_baseline
from ssmtool.errors import SsmtoolError, UsageError
from ssmtool.pipeline.tokens import TokenSource
from tests.checks.models import checked, parts, write
from tests.pipeline.language_models import byte_model

RULES = (
    "order.energy=0.9", "sigma_tail.beyond=2", "redundant.max=9", "unstable.max=9", "margin.min=-1",
    "horizon.left=0.01", "effective_size.min=0", "reduced_size.rank=4", "reduced_error.rank=4",
)  # fmt: skip
OF_HSV = {"order", "sigma_tail", "redundant", "unstable", "effective_size"}


@pytest.fixture
def model(tmp_path):
    poles, B, C = parts(1)
    C[0, 0, 1] = 0
    return write(tmp_path / "model.safetensors", {"a": parts(0), "b": (poles, B, C)})


@pytest.fixture
def document(tmp_path, capsys):
    """Saves what a command prints with --json."""

    def save(*args):
        assert main([*map(str, args), "--json"]) == 0
        path = tmp_path / "baseline.json"
        path.write_text(capsys.readouterr().out, encoding="utf-8")
        return path

    return save


def compared(model, path, rules=RULES, **rest):
    """Rule -> (value, baseline) per layer."""
    changes = [part for rule in rules for part in (rule, f"{rule.partition('.')[0]}.max_increase=0")]
    found = checked(model, *changes, baseline=read_baseline(path), **rest)
    pairs: dict[str, list] = {}
    for finding in found.findings:
        pairs.setdefault(finding.entry.rule, []).append((finding.value, finding.baseline, finding.status))
    return pairs


@pytest.mark.parametrize(
    ("args", "known"),
    [
        (("hsv",), OF_HSV),
        (("diagnose",), {"margin", "horizon", "effective_size"}),
        (("compress", "--rank", 4, "--dry-run"), {"reduced_size", "reduced_error"}),
        (("compress", "--rank", 6, "--dry-run"), set()),
        (("inspect",), set()),
    ],
)
def test_rules_find_their_numbers_in_the_documents_of_other_commands(model, document, args, known):
    command, *options = args
    for rule, pairs in compared(model, document(command, model, *options)).items():
        if rule not in known:
            assert all(then is None and status in ("skipped", "passed") for _, then, status in pairs)
            continue
        for now, then, status in pairs:
            assert then == pytest.approx(now, rel=1e-9)
            assert status == "passed"


def test_a_check_is_a_baseline_for_all_its_rules(model, document):
    sets = [part for rule in RULES for part in ("--set", rule)]
    path = document("check", model, *sets)
    for pairs in compared(model, path).values():
        assert all(now == then for now, then, _ in pairs)
    # the same rule with other keys is another number
    assert compared(model, path, ["order.energy=0.8"])["order"][0][1] is None


def test_selective_layers(tmp_path, document):
    model = byte_model(tmp_path / "m", "mamba2")
    file = tmp_path / "tokens.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (16, 32)))
    source = TokenSource(file)
    rules = ("order.energy=0.9", "sigma_tail.beyond=2", "effective_size.min=0")
    for pairs in compared(model, document("hsv", model, "--tokens", file), rules, source=source).values():
        assert all(then == pytest.approx(now, rel=1e-9) for now, then, _ in pairs)
    reduced = document("compress", model, "--rank", 4, "--refit", 0, "--dry-run", "--tokens", file)
    for pairs in compared(model, reduced, ("reduced_size.rank=4", "reduced_error.rank=4"), source=source).values():
        assert all(then == pytest.approx(now, rel=1e-6) for now, then, _ in pairs)
    fitted = document("compress", model, "--rank", 4, "--refit", 1, "--dry-run", "--tokens", file)
    pairs = compared(model, fitted, ("reduced_size.rank=4", "reduced_error.rank=4"), source=source)
    assert all(then == now for now, then, _ in pairs["reduced_size"])
    assert all(then is None for _, then, _ in pairs["reduced_error"])
    rules = ("margin.min=-1", "reach.min=0", "convergent.by=tokens")
    for pairs in compared(model, document("diagnose", model, "--tokens", file), rules, source=source).values():
        assert all(then == pytest.approx(now, rel=1e-9) for now, then, _ in pairs)


def test_regressions_are_found(model, document, tmp_path):
    path = document("check", model, "--set", "order.energy=0.9")
    worse = write(tmp_path / "worse.safetensors", {"a": parts(0, slots=6), "b": parts(1, slots=6)})
    found = checked(worse, "order.energy=0.9", "order.max_increase=0", baseline=read_baseline(path))
    assert {finding.identifier for finding in found.findings} == {"order.max_increase"}
    first = found.findings[0]
    assert first.value is not None
    assert first.baseline is not None
    rise = first.value - first.baseline
    assert first.message == f"{first.value:.0f}, was {first.baseline:.0f}: rose by {rise:.0f}, more than 0"
    percent = checked(worse, "order.energy=0.9", 'order.max_increase="500%"', baseline=read_baseline(path))
    assert percent.passed()
    fell = checked(worse, "order.energy=0.9", "order.max_decrease=0", baseline=read_baseline(path))
    assert fell.passed()


def test_a_model_as_a_whole(model, document):
    path = document("check", model, "--set", "order.energy=0.9", "--set", "order.scope=model")
    (finding,) = checked(
        model, "order.energy=0.9", "order.scope=model", "order.max_increase=0", baseline=read_baseline(path)
    ).findings
    assert finding.value == finding.baseline
    (finding,) = checked(
        model,
        "order.energy=0.9",
        "order.scope=model",
        "order.max_increase=0",
        baseline=read_baseline(document("hsv", model)),
    ).findings
    assert finding.value == finding.baseline  # added up from the layers


def test_several_models_are_told_apart_by_path_then_by_name(tmp_path, document):
    (tmp_path / "new").mkdir()
    paths = [write(tmp_path / f"{name}.safetensors", {"a": parts(seed)}) for seed, name in enumerate("xy")]
    baseline = read_baseline(document("check", *paths))
    assert [baseline.of(str(path)).path for path in paths] == list(map(str, paths))  # type: ignore[union-attr]
    assert baseline.of("/elsewhere/y.safetensors").path == str(paths[1])  # type: ignore[union-attr]
    assert baseline.of("/elsewhere/z.safetensors") is None


def test_a_baseline_of_another_model_is_an_error(model, document, tmp_path):
    other = write(tmp_path / "other.safetensors", {"x": parts(0)})
    with pytest.raises(UsageError, match="knows no layer"):
        compared(other, document("hsv", model))


def test_what_is_no_document(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(SsmtoolError, match="No such file"):
        read_baseline(path)
    good = {
        "schema_version": 1,
        "tool": {"name": "ssmtool", "version": "0"},
        "command": "hsv",
        "input": {"path": "m"},
        "options": {},
    }
    row = {"name": "a", "redundant": 0, "unstable": 0, "sigma": [[1.0, 0.5]]}
    for text, words in [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no JSON document of ssmtool"),
        ("{}", "schema_version"),
        (json.dumps({**good, "schema_version": 2}), "schema_version 2"),
        (json.dumps({**good, "layers": 3}), "no JSON document"),
        (json.dumps({**good, "layers": [{**row, "sigma": [[1.0], [1.0, 2.0]]}]}), "damaged"),
        (json.dumps({**good, "layers": [{**row, "sigma": [[-1.0]]}]}), "damaged"),
        (json.dumps({**good, "layers": [{**row, "sigma": "x"}]}), "sigma"),
        (json.dumps({**good, "layers": [{"redundant": 0}]}), "name"),
        (json.dumps({**good, "command": "check"}), "no JSON document"),
        (json.dumps({**good, "command": "check", "models": [{"path": "m", "layers": [], "results": [{}]}]}), "rule"),
    ]:
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError) as error:
            read_baseline(path)
        assert words in error.value.line(), text[:80]
        assert "\n" not in error.value.line()
    path.write_text(json.dumps({**good, "layers": [row]}), encoding="utf-8")
    assert read_baseline(path).models[0].layers["a"].sigma.tolist() == [[1.0, 0.5]]  # type: ignore[union-attr]


def test_infinite_values_survive(tmp_path, document):
    poles, B, C = parts(2)
    poles[0, 0] = 0.01 + 1j
    model = write(tmp_path / "model.safetensors", {"a": (poles, B, C)})
    for rule, pairs in compared(
        model, document("hsv", model), [r for r in RULES if r.partition(".")[0] in OF_HSV]
    ).items():
        assert all(then == pytest.approx(now, rel=1e-9) for now, then, _ in pairs), rule
