"""No command opens a connection; --offline sees to it that nothing beside the program does either."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssmtool.cli import app
from tests.cli.conftest import Outcome, Run
from tests.cli.test_process import ENVIRONMENT
from tests.faults.commands import COMMANDS, make_inputs
from tests.pipeline.language_models import hybrid, saved

# Sockets of the internet families are refused where they are made, in every thread, and told. Those of this machine
# alone are not counted: processes of one run speak through them.
WATCHED = """
import json, os, socket, sys
seen = []

def refuse(event, arguments):
    if event == "socket.__new__" and arguments[1] in (socket.AF_INET, socket.AF_INET6) or event == "socket.getaddrinfo":
        seen.append(f"{event} {arguments[1:]}")
        raise OSError("no network here")

sys.addaudithook(refuse)
from ssmtool.__main__ import main
codes = {}
for name, args in json.load(sys.stdin):
    with open(os.devnull, "w") as nowhere:
        sys.stdout, kept = nowhere, sys.stdout
        codes[name] = main(args)
        sys.stdout = kept
print(json.dumps({"codes": codes, "seen": seen}))
"""

WRITING = ("compress", "train", "realize", "identify", "hsv", "check", "diagnose", "selective_refit", "report", "plot")

# Commands that write nothing, and those that run whole models, which is where a library might ask for more.
FURTHER = {
    "inspect": ["inspect", "mamba"],
    "validate": ["validate", "s4d.safetensors", "compress.safetensors", "--length", "20"],
    "validate_selective": ["validate", "mamba", "selective_refit-out", "--tokens", "tokens.npy"],
    "evaluate": ["evaluate", "run/model.safetensors"],
    "speculate": ["speculate", "mamba", "--draft", "mamba", "--prompt", "a", "--length", "3", "--no-costs"],
    "bench": ["bench", "--list"],
    "config": ["config", "show"],
    "diff": ["diff", "s4d.safetensors", "s4d.pt"],
    "tokens": ["hsv", "mamba", "--self", "2", "--length", "16"],
    "transformers": ["hsv", "bamba", "--tokens", "few.npy"],
    "absent": ["inspect", "no-such/model"],
    "help": ["--help"],
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("offline") / "inputs"
    make_inputs(folder)
    saved(hybrid("bamba"), folder / "bamba")
    np.save(folder / "few.npy", np.random.default_rng(0).integers(3, 60, (4, 24)))
    return folder


def test_no_command_opens_a_connection(inputs: Path) -> None:
    commands = []
    for name in WRITING:
        outputs = {"out": f"{name}-out", "out.safetensors": f"{name}.safetensors"}
        commands.append((name, [outputs.get(word, word) for word in COMMANDS[name].args]))
    commands += list(FURTHER.items())
    asked = {args[0] for _, args in commands}
    assert asked >= {module.__name__.rpartition(".")[2] for module in app._COMMANDS}, "every command is run"
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        input=json.dumps(commands),
        cwd=inputs,
        env={**ENVIRONMENT, "OMP_NUM_THREADS": "1", "HF_HUB_CACHE": str(inputs / "hub")},
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["seen"] == []
    wrong = {name: code for name, code in result["codes"].items() if code not in (0, 1)}
    assert wrong == {"absent": 2}, done.stderr


CODE = """
import socket

def build(state):
    {action}
    raise RuntimeError("went through")
"""
ACTIONS = {
    "a name": "socket.getaddrinfo('example.org', 443)",
    "an address": "socket.create_connection(('192.0.2.1', 80), timeout=0.1)",
    "a datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))",
    "the hub": "import urllib.request; urllib.request.urlopen('http://192.0.2.1/', timeout=0.1)",
}


@pytest.fixture
def refined(run: Run, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """A refinement whose --model-code does something."""
    monkeypatch.chdir(inputs)
    monkeypatch.delenv("SSMTOOL_OFFLINE", raising=False)

    def call(action: str, *before: str) -> Outcome:
        code = tmp_path / "code.py"
        code.write_text(CODE.format(action=action))
        command = ["compress", "ref.safetensors", "--rank", "4", "--refine", "1", "--calibrate", "inputs.npy"]
        return run(*before, *command, "--model-code", f"{code}:build", "--dry-run")

    return call


@pytest.mark.parametrize("action", ACTIONS)
def test_offline_refuses_what_code_beside_the_program_asks_for(refined: Callable[..., Outcome], action: str) -> None:
    code, out, err = refined(ACTIONS[action], "--offline")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "a connection to " in err
    assert "was refused" in err


def test_libraries_are_told(refined: Callable[..., Outcome]) -> None:
    told = "import os; raise ValueError(os.environ['HF_HUB_OFFLINE'] + os.environ['TRANSFORMERS_OFFLINE'])"
    assert "11" in refined(told, "--offline").err


@pytest.mark.parametrize(("value", "refused"), [("1", True), ("Yes", True), ("0", False), ("No", False), ("", False)])
def test_the_environment_says_the_same(
    refined: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, value: str, refused: bool
) -> None:
    """Without it, a datagram to an address nobody has is the code's own affair."""
    monkeypatch.setenv("SSMTOOL_OFFLINE", value)
    assert ("a connection to 192.0.2.1 was refused" in refined(ACTIONS["a datagram"]).err) == refused


def test_this_machine_is_not_the_network(refined: Callable[..., Outcome]) -> None:
    assert "a connection to" not in refined("socket.getaddrinfo('127.0.0.1', 9)", "--offline").err


def test_in_one_process_it_ends_with_the_command(run, s4d, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSMTOOL_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    assert run("--offline", "inspect", s4d).code == 0
    assert "HF_HUB_OFFLINE" not in os.environ
    assert socket.getaddrinfo("127.0.0.1", 9)


def test_a_cluster_is_on_the_network(run, s4d) -> None:
    code, _, err = run("--offline", "hsv", s4d, "--no-cache", "--engine", "ray")
    assert code == 2
    assert "--offline forbids" in err
