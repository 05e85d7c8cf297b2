"""ssmtool compress with --refine, --calibrate, --model-code and what belongs to them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssmtool.pipeline.compress import compress
from ssmtool.pipeline.model import load
from ssmtool.pipeline.refine import RefineOptions
from ssmtool.reference.layouts._contract import Sizes
from ssmtool.reference.model import create
from tests.pipeline.live_models import S4D_CODE, s4d_state, sequences

SHORT = ("--rank", "4", "--refine", "10", "--final", "10", "--device", "cpu")


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A folder with a reference model, a model of one's own and its code, and inputs; the current one."""
    monkeypatch.chdir(tmp_path)
    model = create("s4d", Sizes(2, 4, 3, (6, 6)), seed=1)
    save_file({name: x.detach().contiguous() for name, x in model.state_dict().items()}, "ref.safetensors")
    save_file({f"module.{name}": x.contiguous() for name, x in s4d_state().items()}, "own.safetensors")
    Path("model.py").write_text(S4D_CODE)
    np.save("inputs.npy", sequences(40).numpy().astype(np.float16))
    np.save("tokens.npy", np.random.default_rng(0).integers(0, 5, (40, 20)))
    np.save("same.npy", np.ones((4, 5, 2)))
    np.save("wide.npy", sequences(40, inputs=3).numpy())
    return tmp_path


def test_the_text_says_what_the_fit_reached(run, work):
    code, out, _ = run(
        "compress", "ref.safetensors", *SHORT, "--calibrate", "inputs.npy", "--control", "-o", "x.safetensors"
    )
    assert code == 0
    words = " ".join(out.split())
    assert "rank 4 by time_limited, refined" in words
    assert "refined before after noise steps" in words
    assert "Fitted to 36 sequences without labels, judged on 4 others" in words
    assert "same class" in words
    assert "white noise" in words
    assert sorted(p.name for p in work.glob("*x.safetensors*")) == ["x.safetensors"]


def test_json_says_the_same(run, work):
    options = (*SHORT, "--calibrate", "inputs.npy", "--model-code", "model.py:build", "--control", "--method", "best")
    code, out, _ = run("compress", "own.safetensors", *options, "--dry-run", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["method"] == "best"
    refinement, control = found["refinement"], found["control"]
    assert refinement["outputs"]["kind"] == "values"
    assert refinement["outputs"]["after"] < refinement["outputs"]["before"]
    assert refinement["agreement_before"] is None
    assert [layer["name"] for layer in refinement["layers"]] == ["layers.0", "layers.1"]
    assert (refinement["fitted_sequences"], refinement["held_out_sequences"]) == (36, 4)
    assert control["layers"] != refinement["layers"]
    for layer in found["layers"]:
        assert layer["refined"]
        assert layer["tried"][layer["method"]] <= 1.01 * min(layer["tried"].values())
    assert found["options"]["refine"] == 10
    plain = json.loads(run("compress", "ref.safetensors", "--rank", "4", "--dry-run", "--json").out)
    assert (plain["refinement"], plain["control"], plain["layers"][0]["tried"]) == (None, None, {})


def test_outputs_can_be_said(run, work):
    options = (*SHORT, "--calibrate", "inputs.npy", "--model-code", "model.py:build", "--outputs", "classes")
    found = json.loads(run("compress", "own.safetensors", *options, "--dry-run", "--json").out)
    assert found["refinement"]["outputs"]["kind"] == "classes"
    assert 0 <= found["refinement"]["agreement_after"] <= 1


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        ("ref", ["--refine", "10"], "--refine needs --calibrate FILE"),
        ("ref", ["--model-code", "model.py:build"], "--model-code needs --calibrate FILE"),
        ("ref", ["--calibrate", "inputs.npy", "--final", "3"], "--final needs --refine STEPS"),
        ("ref", ["--calibrate", "inputs.npy", "--outputs", "values"], "--outputs needs --refine STEPS"),
        ("ref", ["--calibrate", "inputs.npy", "--control"], "--control needs --refine STEPS"),
        ("ref", ["--refine", "10", "--calibrate", "inputs.npy", "--outputs", "labels"], "neither classes nor values"),
        ("ref", ["--refine", "0", "--calibrate", "inputs.npy"], "--refine"),
        ("ref", ["--refine", "10", "--calibrate", "absent.npy"], "No such file"),
        ("ref", ["--refine", "10", "--calibrate", "model.py"], "cannot be read as an array"),
        ("ref", ["--refine", "10", "--calibrate", "same.npy"], "zero variance"),
        ("ref", ["--refine", "10", "--calibrate", "wide.npy"], "does not run on calibration inputs"),
        ("ref", ["--refine", "10", "--calibrate", "tokens.npy"], "does not run on calibration inputs"),
        ("own", ["--refine", "10", "--calibrate", "inputs.npy"], "Bring its code: --model-code"),
        ("own", ["--refine", "10", "--calibrate", "inputs.npy", "--model-code", "model.py:make"], "no function 'make'"),
        (
            "own",
            ["--refine", "10", "--calibrate", "inputs.npy", "--model-code", "model.py:S4D"],
            "the model's code failed",
        ),
        ("ref", ["--method", "best", "--horizon", "0"], "--horizon 0"),
        ("ref", ["--method", "best", "--band", "1"], "is not LOW:HIGH"),
        ("ref", ["--band", "0:1"], "takes no --band"),
        ("ref", ["--score", "h2"], "takes no --score"),
        ("ref", ["--pad-to", "0"], "--pad-to 0"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(run, work, model, options, reason):
    before = sorted(work.rglob("*"))
    code, out, err = run("compress", f"{model}.safetensors", "--rank", "4", *options, "--quiet")
    assert (code, out) == (2, "")
    assert reason in err
    assert err.startswith("ssmtool: error: ")
    assert err.count("\n") == 1
    assert [path for path in sorted(work.rglob("*")) if "__pycache__" not in str(path)] == before


def test_other_settings_after_a_kill_are_one_line(run, work):
    class Killed(BaseException):
        pass

    def step(name, done, total):
        if name == "model" and done == 3:
            raise Killed

    with pytest.raises(Killed):
        compress(
            load("ref.safetensors"),
            "x.safetensors",
            rank=4,
            inputs=np.load("inputs.npy").astype(np.float32),
            refine=RefineOptions(10, 10, outputs="classes"),
            step=step,
            device="cpu",
        )
    again = ("compress", "ref.safetensors", "--calibrate", "inputs.npy", "-o", "x.safetensors", "--device", "cpu")
    code, out, err = run(*again, "--rank", "4", "--refine", "20", "--final", "10")
    assert (code, out) == (2, "")
    assert "had steps = 10, now it is 20" in err
    assert err.rstrip("\n").count("\n") == 0


@pytest.mark.parametrize("options", [["--method", "modal"], ["--final", "0"], ["--refine", "9"], ["--control"]])
def test_selective_models_refuse_what_is_for_linear_layers(run, tiny, options):
    code, _, err = run("compress", tiny("mamba", "huggingface"), "--rank", "2", *options)
    assert code == 2
    assert "linear time-invariant" in err


def test_models_of_tokens_are_run_on_integers(run, work):
    state = s4d_state(inputs=5)
    state["embedding.weight"] = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    save_file(state, "tokens.safetensors")
    code = S4D_CODE.replace("self.encoder =", "self.embedding = nn.Embedding(5, 5)\n        self.encoder =")
    Path("reads.py").write_text(code.replace("self.encoder(u)", "self.encoder(self.embedding(u))"))
    options = (*SHORT, "--calibrate", "tokens.npy", "--model-code", "reads.py:build", "--dry-run", "--json")
    found = json.loads(run("compress", "tokens.safetensors", *options).out)["refinement"]
    assert found["outputs"]["kind"] == "classes"
    assert found["outputs"]["after"] < found["outputs"]["before"]
