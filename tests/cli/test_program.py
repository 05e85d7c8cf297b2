"""The program around the sub-commands: help, usage errors, unexpected errors, devices."""

from __future__ import annotations

import pytest
import torch

import ssmtool
from ssmtool import plugins
from ssmtool.cli import (
    bench,
    check,
    compress,
    config,
    diagnose,
    diff,
    evaluate,
    hsv,
    identify,
    inspect,
    plot,
    realize,
    report,
    speculate,
    train,
    validate,
)
from ssmtool.cli.app import command

COMMON = {"--family", "--json", "--quiet", "--help"}
OPTIONS = {
    "inspect": COMMON,
    "hsv": COMMON | {"--plot", "--csv", "--layer", "--device"},
    "compress": COMMON
    | {"--output", "--rank", "--energy", "--error", "--budget", "--method", "--layers", "--per-layer", "--dry-run"}
    | {"--drop-blocks", "--device"},
    "validate": COMMON | {"--inputs", "--length", "--max-error", "--layers", "--seed", "--device"},
    "diagnose": COMMON | {"--section", "--tokens", "--text", "--self", "--task", "--plot", "--layer", "--device"},
    "realize": (COMMON - {"--family"})
    | {"--output", "--rank", "--energy", "--error", "--method", "--tensor", "--key", "--axes", "--feedthrough"}
    | {"--dtype", "--dry-run", "--device"},
    "identify": COMMON - {"--family"} | {"--output", "--order", "--horizon", "--holdout", "--dtype", "--dry-run"},
    "check": COMMON
    | {
        "--policy",
        "--set",
        "--rule",
        "--baseline",
        "--format",
        "--strict",
        "--exit-zero",
        "--tokens",
        "--text",
        "--self",
    }
    | {"--layer", "--device", "--jobs", "--cache", "--no-cache"},
    "report": (COMMON - {"--json"})
    | {
        "--output",
        "--measure",
        "--tokens",
        "--text",
        "--self",
        "--layer",
        "--title",
        "--no-timings",
        "--device",
        "--jobs",
    },
    "plot": (COMMON - {"--json"})
    | {
        "--kind",
        "--output",
        "--layer",
        "--system",
        "--column",
        "--width",
        "--height",
        "--style",
        "--tokens",
        "--device",
    },
    "diff": COMMON | {"--layer", "--fail-on-change", "--device", "--jobs", "--cache", "--no-cache"},
    "config": {"--policy", "--set", "--json", "--help"},
    "evaluate": COMMON | {"--task", "--data", "--device"},
    "train": (COMMON - {"--family"})
    | {"--output", "--task", "--model", "--reg", "--truncate", "--resume", "--seed", "--epochs", "--width", "--depth"}
    | {"--slots", "--batch", "--rate", "--state-rate", "--dropout", "--data", "--device", "--threads"},
    "speculate": COMMON
    | {"--draft", "--prompt", "--prompts", "--tree", "--length", "--sync", "--batch", "--costs", "--no-costs"}
    | {"--tokens", "--text", "--self", "--device"},
}


def test_version(run):
    assert run("--version") == (0, f"ssmtool {ssmtool.__version__}\n", "")


def test_help_lists_commands_families_and_methods(run):
    code, out, _ = run("--help")
    assert code == 0
    for name in (*OPTIONS, *plugins.names("ssmtool.families"), *plugins.names("ssmtool.reductions")):
        assert name in out
    assert "..." not in out.partition("Commands:")[2].partition("Families:")[0]  # no summary is cut short


def test_without_a_command_help_goes_to_stderr(run):
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "Commands:" in err


@pytest.mark.parametrize(("name", "options"), OPTIONS.items())
def test_help_of_every_command_lists_its_options_and_examples(run, name, options):
    code, out, _ = run(name, "--help")
    assert code == 0
    words = out.replace(",", " ").split()
    assert options <= set(words)
    assert f"  ssmtool {name} " in out.partition("Examples:")[2]
    assert max(map(len, out.splitlines())) <= 100


def test_every_command_documents_every_option():
    program = command()
    modules = (inspect, hsv, diagnose, check, diff, compress, validate, realize, identify, evaluate, train)
    modules += (speculate, bench, config, report, plot)
    assert set(program.commands) == {module.__name__.rpartition(".")[2] for module in modules}  # type: ignore[attr-defined]
    for sub in program.commands.values():  # type: ignore[attr-defined]
        for parameter in sub.params:
            assert getattr(parameter, "help", ""), f"{sub.name} {parameter.name}"


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["hsv"], "MODEL"),
        (["hsv", "model", "--plto", "x.svg"], "--plot"),
        (["frobnicate"], "frobnicate"),
        (["hsv", "model", "--device", "tpu"], "cuda"),
        (["validate", "only-one"], "REDUCED"),
        (["evaluate"], "MODEL"),
    ],
)
def test_usage_errors_are_one_line_with_exit_code_2(run, args, reason):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err.startswith("ssmtool: error: ")
    assert reason in err
    assert "--help" in err
    assert err.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("args", [["hsv"], ["compress", "--rank", "2"], ["evaluate"]])
def test_cuda_without_a_device_exits_2(run, s4d, args):
    code, out, err = run(*args, s4d, "--device", "cuda", "--json")
    assert (code, out) == (2, "")
    assert "no CUDA device" in err


def _break(monkeypatch, error):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr("ssmtool.pipeline.model.load", broken)


def test_an_unexpected_error_exits_2_and_says_how_to_see_more(run, monkeypatch):
    _break(monkeypatch, ZeroDivisionError("by\nnothing"))
    code, out, err = run("inspect", "model")
    assert (code, out) == (2, "")
    assert err == (
        "ssmtool: error: internal error: ZeroDivisionError: by nothing (set SSMTOOL_TRACEBACK=1 for the traceback)\n"
    )
    monkeypatch.setenv("SSMTOOL_TRACEBACK", "1")
    assert "Traceback" in run("inspect", "model").err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 2, "MemoryError"),
        (OSError(5, "Input/output error", "disk"), 2, "Input/output error"),
    ],
)
def test_other_ends(run, monkeypatch, error, code, words):
    _break(monkeypatch, error)
    outcome = run("inspect", "model")
    assert (outcome.code, outcome.out) == (code, "")
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
