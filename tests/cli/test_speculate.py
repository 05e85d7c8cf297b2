"""speculate, and compress --drop-blocks, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import ssmtool
from ssmtool.pipeline.generate import advance, greedy
from ssmtool.pipeline.speculative.speculate import open_stack
from tests.pipeline.language_models import byte_model, hybrid, saved

FIXTURES = Path(__file__).parents[2] / "fixtures"
NO_COSTS = ("--no-costs", "--length", 12)


@pytest.fixture
def mamba2(tmp_path: Path) -> Path:
    return byte_model(tmp_path / "mamba2", "mamba2")


@pytest.fixture
def mamba(tmp_path: Path) -> Path:
    return byte_model(tmp_path / "mamba", "mamba")


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (8, 24)))
    return path


def continuation(path: Path, prompt: list[int], length: int) -> list[int]:
    model = open_stack(ssmtool.load(path), "cpu")
    with torch.no_grad():
        return greedy(model, *advance(model, torch.tensor([prompt])), length)[0].tolist()


def test_the_text_says_what_was_accepted_saved_and_what_it_costs(run, mamba2):
    code, out, err = run("speculate", mamba2, "--draft", mamba2, "--prompt", "def f(x):", "--length", 12)
    assert (code, err) == (0, "")
    for part in ("accepted length", "calls of the model", "1 of 1", "identical to plain greedy decoding", "break-even"):
        assert part in out
    assert "Batch 1: it " in out
    assert "Batch 32: it " in out


def test_json_holds_the_plain_continuation(run, mamba2, mamba):
    code, out, _ = run("speculate", mamba2, "--draft", mamba, "--prompt", "ab", "--prompt", "cde", "--json", *NO_COSTS)
    document = json.loads(out)
    assert code == 0
    assert document["command"] == "speculate"
    assert document["tokens"] == [continuation(mamba2, list(b"ab"), 12), continuation(mamba2, list(b"cde"), 12)]
    assert (document["passed"], document["identical"], document["sync"]) == (True, 2, "replay")
    assert document["plain_calls"] == 22
    assert document["calls"] == document["rounds"] + document["plain_steps"]
    assert document["costs"] == []


def test_costs_in_json(run, mamba2):
    document = json.loads(run("speculate", mamba2, "--draft", mamba2, "--prompt", "a", "--tree", "1x2", "--json").out)
    assert [row["batch"] for row in document["costs"]] == [1, 32]
    for row in document["costs"]:
        total = row["seconds_draft"] + row["seconds_verify"] + row["seconds_settle"]
        assert row["break_even"] == pytest.approx(total / row["seconds_plain"])
        assert row["speedup"] == pytest.approx(row["tokens_per_round"] / row["break_even"])
        assert row["steps"] == {"1": 2.0}


def test_quiet_prints_the_continuations(run, mamba2):
    code, out, err = run("speculate", mamba2, "--draft", mamba2, "--prompt", "ab", "--quiet", *NO_COSTS)
    assert (code, err) == (0, "")
    assert out == bytes(continuation(mamba2, list(b"ab"), 12)).decode("utf-8", "replace").rstrip("\n") + "\n"


def test_prompts_of_a_file_and_of_tokens(run, mamba2, tokens, tmp_path):
    lines = tmp_path / "prompts.txt"
    lines.write_text("first\n\nsecond one\n")
    documents = [
        json.loads(run("speculate", mamba2, "--draft", mamba2, *arguments, "--json", "--batch", 3, *NO_COSTS).out)
        for arguments in (("--prompts", lines), ("--prompts", tokens), ("--tokens", tokens))
    ]
    assert [document["prompts"] for document in documents] == [2, 8, 8]
    assert all(document["passed"] for document in documents)
    assert documents[0]["tokens"][1] == continuation(mamba2, list(b"second one"), 12)
    assert documents[1]["tokens"] == documents[2]["tokens"]


def test_drafts_made_in_memory(run, mamba2, tokens):
    text = run("speculate", mamba2, "--draft", "auto", "--tokens", tokens, "--tree", "1x2", *NO_COSTS).out
    assert "drafts tried" in text
    assert text.count(" taken") == 1
    assert "1 of 2 blocks" in text


def test_blocks_are_dropped_and_draft(run, mamba2, tokens, tmp_path):
    out = tmp_path / "out"
    code, text, _ = run("compress", mamba2, "--drop-blocks", 1, "--tokens", tokens, "-o", out)
    assert code == 0
    assert "1 block of 2 left out" in text
    assert "ssmtool speculate" in text
    code, text, _ = run("speculate", mamba2, "--draft", out, "--prompt", "abc", *NO_COSTS)
    assert code == 0
    assert "projected from the model's" in text
    document = json.loads(run("inspect", out, "--json").out)
    assert [layer["name"] for layer in document["layers"]] == ["backbone.layers.0.mixer"]


def test_dropped_blocks_in_json_and_dry(run, mamba2, tokens, tmp_path):
    arguments = ("compress", mamba2, "--drop-blocks", 1, "--tokens", tokens)
    document = json.loads(run(*arguments, "--dry-run", "--json").out)
    assert document["target"] == "drop-blocks 1"
    assert document["output"] is None
    (dropped,) = document["dropped"]
    assert dropped["loss"] == min(dropped["losses"].values())
    assert len(document["kept"]) == 1
    code, out, _ = run(*arguments, "-o", tmp_path / "out", "--quiet")
    assert (code, out.strip()) == (0, str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--draft", "SELF"], "no prompt"),
        (["--draft", "SELF", "--prompt", ""], "prompt is empty"),
        (["--draft", "SELF", "--prompt", "a", "--tree", "huge"], "--tree huge is no tree"),
        (["--draft", "SELF", "--prompt", "a", "--sync", "no"], "no --sync no"),
        (["--draft", "auto", "--prompt", "a"], "none are given"),
        (["--draft", "missing", "--prompt", "a"], "missing"),
        (["--draft", str(FIXTURES / "digits-s4d.safetensors"), "--prompt", "a"], "input-dependent"),
        (["--draft", "SELF", "--prompts", "missing.txt"], "cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(run, mamba2, arguments, text):
    given = [str(mamba2) if argument == "SELF" else argument for argument in arguments]
    code, out, err = run("speculate", mamba2, *given)
    assert (code, out) == (2, "")
    assert text in err
    assert err.count("\n") == 1


def test_models_that_cannot_speculate(run, mamba2, tmp_path, capsys):
    pytest.importorskip("transformers")
    bamba, falcon = (saved(hybrid(kind), tmp_path / kind) for kind in ("bamba", "falcon_mamba"))
    capsys.readouterr()  # transformers talks while it writes
    for model, draft, text in (
        (bamba, mamba2, "Mamba blocks alone"),
        (mamba2, falcon, "different vocabularies"),
        (FIXTURES / "digits-s4d.safetensors", mamba2, "input-dependent"),
    ):
        code, out, err = run("speculate", model, "--draft", draft, "--prompt", "a")
        assert (code, out) == (2, "")
        assert text in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--drop-blocks", 1], "none are given"),
        (["--drop-blocks", 2, "--self", 2], "give 1 to 1"),
        (["--drop-blocks", 0, "--self", 2], "--drop-blocks 0 of 2 blocks"),
        (["--drop-blocks", 1, "--rank", 4, "--self", 2], "--drop-blocks and --rank are two steps"),
        (["--drop-blocks", 1, "--export", "projected", "--self", 2], "--drop-blocks and --export"),
        (["--drop-blocks", 1, "--per-layer", "--self", 2], "--drop-blocks and --per-layer"),
        (["--drop-blocks", 1, "--layers", "*.0.*", "--self", 2], "--drop-blocks and --layers"),
    ],
)
def test_what_cannot_be_dropped(run, mamba2, arguments, text):
    code, out, err = run("compress", mamba2, *arguments)
    assert (code, out) == (2, "")
    assert text in err
    assert err.count("\n") == 1


def test_linear_models_and_hybrids_have_no_blocks_to_drop(run, s4d, tmp_path):
    pytest.importorskip("transformers")
    for model, text in ((s4d, "input-dependent"), (saved(hybrid("bamba"), tmp_path / "bamba"), "other than mixers")):
        code, _, err = run("compress", model, "--drop-blocks", 1, "--self", 2)
        assert code == 2
        assert text in err
