"""The action, the hook and the snippets of docs/ci.md, run as far as that goes without their servers."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.checks.models import parts, write

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
BASH = shutil.which("bash")
MAKE = shutil.which("make")
BESIDE = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
PRE_COMMIT = shutil.which("pre-commit", path=BESIDE) or ""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Shared by all tests here: the models are the same, and loading PyTorch is most of a first run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def checkout(tmp_path, cache):
    """A repository with two models, one of them unstable, and commands `ssmtool`, `python` and `pip` on the path."""
    place = tmp_path / "check out"  # with a space
    (place / "models" / "deep").mkdir(parents=True)
    write(place / "models" / "good.safetensors", {"a": parts(0)})
    poles, B, C = parts(1)
    poles[0, 0] = 0.1 + 1j
    write(place / "models" / "deep" / "bad one.safetensors", {"a": (poles, B, C)})
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, line in (("ssmtool", f'"{sys.executable}" -m ssmtool "$@"'), ("python", f'"{sys.executable}" "$@"')):
        (commands / name).write_text(f"#!/bin/sh\nexec {line}\n")
    (commands / "pip").write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/pip.log"\n')
    (tmp_path / "cache").symlink_to(cache)
    for command in commands.iterdir():
        command.chmod(0o755)
    return place


def environment(checkout: Path, **more: str) -> dict[str, str]:
    base = checkout.parent
    path = os.pathsep.join((str(base / "bin"), os.environ["PATH"]))
    code = os.pathsep.join((str(ROOT), str(ROOT / "kernels")))
    return {**os.environ, "PATH": path, "PYTHONPATH": code, "SSMTOOL_CACHE": str(base / "cache"), **more}


def step(name: str) -> dict[str, Any]:
    (found,) = [one for one in ACTION["runs"]["steps"] if one["name"] == name]
    return found


def run_step(name: str, checkout: Path, github: dict[str, str] | None = None, **inputs: str):
    """A step as the runner runs it: expressions become environment variables, the script goes to bash -e."""
    one = step(name)
    given = {key: str(value.get("default", "")) for key, value in ACTION["inputs"].items()} | inputs
    variables = {}
    for variable, expression in one["env"].items():
        found = re.fullmatch(r"\$\{\{ (inputs|github)\.([\w-]+) \}\}", expression)
        assert found, expression
        variables[variable] = given[found[2]] if found[1] == "inputs" else (github or {})[found[2]]
    script = checkout.parent / "step.sh"
    script.write_text(one["run"], encoding="utf-8")
    files = {
        "GITHUB_OUTPUT": str(checkout.parent / "output"),
        "GITHUB_STEP_SUMMARY": str(checkout.parent / "summary.md"),
    }
    return subprocess.run(
        [BASH or "bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        cwd=checkout,
        env=environment(checkout, **variables, **files),
        capture_output=True,
        encoding="utf-8",
    )


def test_the_action_is_a_composite_one_that_pastes_no_input_into_a_script():
    assert ACTION["runs"]["using"] == "composite"
    assert set(ACTION) <= {"name", "description", "author", "branding", "inputs", "outputs", "runs"}
    used = set()
    for one in ACTION["runs"]["steps"]:
        assert one["shell"] == "bash"
        assert "${{" not in one["run"]
        assert "uses" not in one  # nothing from elsewhere, nothing uploaded
        used |= set(re.findall(r"inputs\.([\w-]+)", str(one)))
    assert used == set(ACTION["inputs"])
    for name, facts in ACTION["inputs"].items():
        assert facts["description"]
        assert f"| `{name}` |" in PAGE
    ids = {one.get("id") for one in ACTION["runs"]["steps"]}
    for facts in ACTION["outputs"].values():
        assert re.fullmatch(r"\$\{\{ steps\.(\w+)\.outputs\.[\w-]+ \}\}", facts["value"])[1] in ids  # type: ignore[index]


@pytest.mark.skipif(BASH is None, reason="no bash")
def test_the_actions_check(checkout):
    done = run_step(
        "Check", checkout, models="models/**/*.safetensors\n\n", junit="junit.xml", args="--set\norder.max=8\n"
    )
    assert done.returncode == 1, done.stderr
    assert "::error file=models/deep/bad one.safetensors,title=ssmtool unstable.max::" in done.stdout
    assert "models/good.safetensors" in done.stdout
    assert (checkout.parent / "output").read_text() == "exit-code=1\nreport=ssmtool-check.json\n"
    assert "**The policy does not hold: 1 error" in (checkout.parent / "summary.md").read_text(encoding="utf-8")
    assert (checkout / "ssmtool-check.json").exists()
    assert (checkout / "junit.xml").exists()


@pytest.mark.skipif(BASH is None, reason="no bash")
def test_the_actions_other_inputs(checkout):
    (checkout / "policy.toml").write_text("[check.rules]\nunstable = 'warn'\n")
    bad = "models/deep/bad one.safetensors"
    assert run_step("Check", checkout, models=bad, policy="policy.toml").returncode == 0
    assert run_step("Check", checkout, models=bad, policy="policy.toml", strict="true").returncode == 1
    assert run_step("Check", checkout, models=bad, **{"exit-zero": "true"})  # type: ignore[arg-type].returncode == 0
    good = run_step("Check", checkout, models="models/good.safetensors", baseline="ssmtool-check.json")
    assert good.returncode == 0, good.stderr
    hostile = run_step("Check", checkout, models='"; touch pwned; $(touch pwned) `touch pwned`')
    assert hostile.returncode == 2
    assert not list(checkout.rglob("pwned"))


@pytest.mark.skipif(BASH is None, reason="no bash")
def test_the_actions_installation(checkout):
    """What pip is told; that it can be done is the next test."""
    python = checkout.parent / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> "{checkout.parent}/python.log"\n')
    log = checkout.parent / "python.log"
    run_step("Install ssmtool", checkout, {"action_path": "/the/action"})
    run_step("Install ssmtool", checkout, {"action_path": "/the/action"}, package="ssmtool==0.1.0")
    run_step("Install ssmtool", checkout, {"action_path": "/the/action"}, package="none")
    assert [line.split()[-1] for line in log.read_text().splitlines()] == ["/the/action", "ssmtool==0.1.0"]


def _setuptools() -> bool:
    try:
        return int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(BASH is None or not _setuptools(), reason="no bash, or no setuptools to build with offline")
def test_the_action_installs_itself(checkout, tmp_path):
    """Its own folder, without the network and without the dependencies, which are here already."""
    action = tmp_path / "action"
    action.mkdir()
    for name in ("ssmtool", "kernels"):
        shutil.copytree(ROOT / name, action / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, action / name)
    target = tmp_path / "site"
    os.environ["PIP_NO_BUILD_ISOLATION"] = "false"  # pip's spelling of --no-build-isolation
    try:
        settings = {"PIP_TARGET": str(target), "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1"}
        os.environ.update(settings)
        done = run_step("Install ssmtool", checkout, {"action_path": str(action)})
    finally:
        for name in ("PIP_NO_BUILD_ISOLATION", "PIP_TARGET", "PIP_NO_DEPS", "PIP_NO_INDEX"):
            os.environ.pop(name, None)
    assert done.returncode == 0, done.stderr
    assert (target / "ssmtool" / "checks" / "rules" / "order.py").exists()
    assert (target / "ssmtool_kernels").exists()


def blocks(language: str) -> list[str]:
    """Code blocks of docs/ci.md."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(BASH is None, reason="no bash")
def test_the_gitlab_snippet(checkout, tmp_path):
    (job,) = [tree["ssmtool-check"] for tree in map(yaml.safe_load, blocks("yaml")) if "ssmtool-check" in tree]
    script = " && ".join(f"{{ {line}; }}" for line in job["script"])
    done = subprocess.run(
        [BASH or "bash", "-c", script], cwd=checkout, env=environment(checkout), capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pip.log").read_text() == "install ssmtool\n"
    for name in (*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]):
        assert (checkout / name).exists()


@pytest.mark.skipif(MAKE is None, reason="no make")
def test_the_makefile_snippet(checkout):
    (text,) = blocks("make")
    (checkout / "Makefile").write_text(text)

    def make(target: str):
        return subprocess.run(
            [MAKE or "make", target], cwd=checkout, env=environment(checkout), capture_output=True, encoding="utf-8"
        )

    assert make("baseline").returncode == 0
    first = make("check")
    assert first.returncode == 0, first.stderr
    assert "Baseline: baseline.json" in first.stdout
    assert "The policy holds" not in make("check").stdout  # nothing changed
    shutil.copy(checkout / "models" / "deep" / "bad one.safetensors", checkout / "models" / "bad.safetensors")
    assert make("check").returncode == 2  # make's own code for a command that failed


def test_the_hook():
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert (hook["id"], hook["entry"], hook["language"]) == ("ssmtool-check", "ssmtool check", "system")
    assert re.search(hook["files"], "models/a.safetensors")
    assert not re.search(hook["files"], "models/a.safetensors.md")
    uses = [
        hook
        for tree in map(yaml.safe_load, blocks("yaml"))
        if "repos" in tree
        for repo in tree["repos"]
        for hook in repo["hooks"]
    ]
    assert [use["id"] for use in uses] == ["ssmtool-check"] * 2
    assert all(re.search(use["files"], "models/a.safetensors") for use in uses)


@pytest.mark.skipif(not PRE_COMMIT, reason="no pre-commit")
def test_the_manifest_is_valid_for_pre_commit():
    done = subprocess.run(
        [PRE_COMMIT, "validate-manifest", str(ROOT / ".pre-commit-hooks.yaml")],
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not PRE_COMMIT or shutil.which("git") is None, reason="no pre-commit, or no git")
def test_pre_commit_runs_the_hook(checkout, tmp_path):
    """On a repository of its own, with the manifest from here."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", hooks)
    surroundings = environment(checkout, PRE_COMMIT_HOME=str(tmp_path / "home"), HOME=str(tmp_path))
    surroundings = {key: value for key, value in surroundings.items() if not key.startswith("GIT_")}

    def call(place: Path, *command: str):
        return subprocess.run(command, cwd=place, env=surroundings, capture_output=True, encoding="utf-8")

    who = ("-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false")
    for place in (hooks, checkout):
        call(place, "git", "init", "-q")
        call(place, "git", "add", "-A")
        call(place, "git", *who, "commit", "-q", "-m", "all")
    done = call(checkout, PRE_COMMIT, "try-repo", str(hooks), "ssmtool-check", "--files", "models/good.safetensors")
    assert done.returncode == 0, done.stdout + done.stderr
    done = call(checkout, PRE_COMMIT, "try-repo", str(hooks), "ssmtool-check", "--all-files")
    assert done.returncode == 1
    assert "unstable.max" in done.stdout
