"""ssmtool check, config show and diff, as they are called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ssmtool.report.check_document import CheckDocument
from ssmtool.report.config_document import ConfigDocument
from ssmtool.report.diff_document import DiffDocument

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty current directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return folder


def test_without_configuration(run, s4d):
    code, out, err = run("check", s4d)
    assert (code, err) == (0, "")
    for word in ("unstable", "redundant", "order for 99 % of Σσ", "passed", "The policy holds: 0 errors", "built-in"):
        assert word in out


def test_unstable_states_are_an_error_and_redundant_ones_a_warning(run, unstable, redundant):
    code, out, err = run("check", unstable)
    assert (code, err) == (1, "")
    assert "unstable.max" in out
    assert "2 of 24, more than 0" in out
    code, out, _ = run("check", redundant)
    assert code == 0
    assert "redundant.max" in out
    assert run("check", redundant, "--strict").code == 1
    assert run("check", redundant, "--strict", "--exit-zero").code == 0
    assert run("check", unstable, "--exit-zero").code == 0


def test_a_policy_file_upward(run, s4d, here, monkeypatch):
    (here / "ssmtool.toml").write_text("[check.rules.order]\nmax = 1\n")
    deep = here / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    code, out, _ = run("check", s4d)
    assert code == 1
    assert "order.max" in out
    assert str(here / "ssmtool.toml") in out
    assert run("check", s4d, "--rule", "unstable").code == 0
    assert run("check", s4d, "--set", "order.max=6").code == 0
    (here / "other.toml").write_text("[check]\n")
    assert run("check", s4d, "--policy", here / "other.toml").code == 0


def test_json_is_the_documented_shape(run, s4d):
    code, out, _ = run("check", s4d, "--json", "--set", "order.max=1")
    document = CheckDocument.model_validate_json(out)
    assert code == 1
    assert not document.passed
    assert document.counts["error"] == 2
    (model,) = document.models
    assert model.path == str(s4d)
    assert [layer.name for layer in model.layers] == ["s4_layers.0", "s4_layers.1"]
    worst = next(result for result in model.results if result.rule == "order")
    assert (worst.status, worst.whole, worst.unit, worst.origin) == ("error", 6, "states", "command line")
    assert [limit.model_dump() for limit in worst.limits] == [
        {"kind": "max", "limit": 1, "bound": 1, "holds": False, "text": worst.message}
    ]
    assert CheckDocument.model_validate_json(run("check", s4d, "--json", "--set", "order.max=1", "--strict").out)


def test_a_check_is_its_own_baseline(run, s4d, here):
    assert run("check", s4d, "--format", "json:baseline.json").code == 0
    code, out, _ = run("check", s4d, "--baseline", "baseline.json")
    assert code == 0
    assert "Baseline: baseline.json" in out
    assert "skipped" not in out
    (here / "ssmtool.toml").write_text("[check]\nbaseline = 'baseline.json'\n")
    assert "Baseline" in run("check", s4d).out


def test_several_outputs_at_once(run, unstable, here, monkeypatch):
    summary = here / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    (here / "r.xml").write_text("old")
    args = [
        part
        for text in ("text", "github", "json:r.json", "junit:r.xml", "markdown:r.md")
        for part in ("--format", text)
    ]
    code, out, _ = run("check", unstable, *args)
    assert code == 1
    assert "The policy does not hold" in out
    assert "\n::error " in out
    assert json.loads((here / "r.json").read_text())["passed"] is False
    assert ElementTree.parse(here / "r.xml").getroot().get("failures") == "1"
    markdown = (here / "r.md").read_text(encoding="utf-8")
    assert markdown.startswith("## ssmtool check\n")
    assert summary.read_text(encoding="utf-8") == f"before\n{markdown}\n"
    assert sorted(os.listdir(here)) == ["r.json", "r.md", "r.xml", "summary.md"]


def test_the_summary_is_left_alone_unless_github_is_asked_for(run, s4d, here, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "summary.md"))
    run("check", s4d)
    assert not (here / "summary.md").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--format", "yaml"], "no format 'yaml'"),
        (["--format", "junit:"], "names no file"),
        (["--format", "junit:x.json"], ".xml"),
        (["--format", "json:model.safetensors"], ".json"),
        (["--format", "json:none/x.json"], "mkdir"),
        (["--format", "json", "--format", "text"], "cannot both"),
        (["--format", "junit", "--json"], "cannot both"),
        (["--format", "text:a.txt", "--format", "github:a.txt"], "same file"),
        (["--rule", "ordre"], "no rule 'ordre'"),
        (["--rule", "margin"], "--set margin"),
        (["--policy", "none.toml"], "No such file"),
        (["--baseline", "none.json"], "No such file"),
        (["--set", "order.mx=1"], "Did you mean 'max'"),
        (["--layer", "encoder.*"], "no layer matches"),
        (["--self", "2", "--tokens", "x.npy"], "--tokens"),
    ],
)
def test_wrong_command_lines_exit_2_and_say_what(run, s4d, args, words):
    code, out, err = run("check", s4d, *args)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert "internal" not in err


def test_a_file_that_cannot_be_written_is_an_error_not_a_finding(run, s4d, here):
    (here / "r.json").mkdir()
    assert run("check", s4d, "--format", "json:r.json").code == 2
    code, _, err = run("check", s4d, "--format", "json:/proc/r.json")
    assert code == 2
    assert "/proc/r.json" in err
    assert "internal" not in err


def test_a_checkpoint_that_cannot_be_read_exits_2_even_with_exit_zero(run, s4d, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no")
    assert run("check", s4d, broken, "--exit-zero").code == 2


def test_quiet_says_the_findings_on_standard_error(run, s4d, unstable):
    assert run("check", s4d, "--quiet") == (0, "", "")
    code, out, err = run("check", unstable, "--quiet")
    assert (code, out) == (1, "")
    assert err == "ssmtool: error: unstable.max: layers.0.ssm: 2 of 24, more than 0\n"


def test_several_models(run, s4d, unstable):
    code, out, _ = run("check", s4d, unstable, "--json")
    assert code == 1
    models = json.loads(out)["models"]
    assert [model["path"] for model in models] == [str(s4d), str(unstable)]
    assert {r["status"] for r in models[0]["results"]} <= {"passed", "skipped"}


def test_an_unchanged_model_is_checked_without_pytorch(run, s4d, tmp_path):
    """What makes a second run quick: neither PyTorch nor SciPy is imported."""
    args = ["check", str(s4d), "--cache", str(tmp_path / "cache")]
    for change in ("margin.min=0", "horizon.min=0", "reduced_error.rank=2"):
        args += ["--set", change]
    first = run(*args)
    script = (
        "import sys\nfrom ssmtool.__main__ import main\n"
        "code = main(sys.argv[1:])\n"
        "print(*{'torch', 'scipy', 'matplotlib'} & set(sys.modules), end='', file=sys.stderr)\nsys.exit(code)\n"
    )
    path = os.pathsep.join((str(ROOT), str(ROOT / "kernels")))
    again = subprocess.run(
        [sys.executable, "-c", script, *args],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == first.out


def test_no_cache_keeps_nothing(run, s4d, tmp_path):
    assert run("check", s4d, "--no-cache").code == 0
    assert run("check", s4d, "--no-cache", "--cache", tmp_path / "cache").code == 2
    assert not (tmp_path / "cache").exists()
    assert run("check", s4d, "--cache", tmp_path / "cache").code == 0
    assert (tmp_path / "cache").exists()


def test_config_show(run, here):
    (here / "ssmtool.toml").write_text(
        "[check]\nskipped = 'warn'\n[[check.rules.order]]\nmax = '50%'\n[[check.rules.order]]\nmax=3\nlayers='a'\n"
    )
    code, out, err = run("config", "show", "--set", "margin.min=0.1")
    assert (code, err) == (0, "")
    rows = [" ".join(row.split()) for row in out.splitlines()]
    for row in (
        'skipped = "warn" # ssmtool.toml:2', "[check.rules.unstable] # built-in",
        "[[check.rules.order]] # ssmtool.toml:3", 'max = "50%" # ssmtool.toml:4',
        "[[check.rules.order]] # ssmtool.toml:5", 'layers = ["a"] # ssmtool.toml:7',
        "min = 0.1 # command line", "energy = 0.99 # default", "seed = 0 # default",
    ):  # fmt: skip
        assert row in rows
    shown = ConfigDocument.model_validate_json(run("config", "show", "--set", "margin.min=0.1", "--json").out)
    assert shown.file == "ssmtool.toml"
    assert shown.settings["skipped"].origin == "ssmtool.toml:2"
    assert [rule.rule for rule in shown.rules] == ["unstable", "redundant", "order", "order", "margin"]
    # what is shown is a policy that says the same
    (here / "again.toml").write_text(out, encoding="utf-8")
    again = ConfigDocument.model_validate_json(run("config", "show", "--policy", "again.toml", "--json").out)
    assert [{k: v.value for k, v in rule.values.items()} for rule in again.rules] == [
        {k: v.value for k, v in rule.values.items()} for rule in shown.rules
    ]
    assert run("config", "hide").code == 2


def test_diff_of_models_and_documents(run, s4d, here):
    small = run("compress", s4d, "--rank", 2, "--quiet").out.strip()
    code, out, err = run("diff", s4d, small)
    assert (code, err) == (0, "")
    assert "6 → 4" in out
    assert "2 of 2 layers changed." in out
    assert run("diff", s4d, small, "--fail-on-change", "--quiet") == (1, "", "")
    assert run("diff", s4d, s4d, "--fail-on-change").code == 0
    for command in ("hsv", "check", "inspect", "diagnose"):
        (here / f"{command}.json").write_text(run(command, s4d, "--json").out, encoding="utf-8")
        assert run("diff", f"{command}.json", s4d, "--fail-on-change").code == 0, command
        assert run("diff", f"{command}.json", small, "--fail-on-change").code == 1, command
    document = DiffDocument.model_validate_json(run("diff", "hsv.json", small, "--json").out)
    assert (document.changed, document.before.kind, document.before.command) == (True, "document", "hsv")
    assert document.layers[0].numbers["states"].model_dump() == {"before": 6, "after": 4}
    assert [layer.name for layer in document.layers] == ["s4_layers.0", "s4_layers.1"]


def test_diff_refuses_what_it_cannot_compare(run, s4d, here):
    (here / "two.json").write_text(run("check", s4d, s4d, "--json").out, encoding="utf-8")
    code, out, err = run("diff", "two.json", s4d)
    assert (code, out) == (2, "")
    assert "2 models" in err
    assert run("diff", "none.json", s4d).code == 2
