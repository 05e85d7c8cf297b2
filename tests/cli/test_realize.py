"""ssmtool realize."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ssmtool.report.realize_document import RealizeDocument

SHORT = ("--device", "cpu", "--rank", 4)


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """Three responses of four states each: two damped oscillations."""
    k, rng = np.arange(100), np.random.default_rng(0)
    waves = np.stack([np.exp(-0.05 * k) * np.cos(0.4 * k), np.exp(-0.1 * k) * np.cos(1.7 * k)])
    path = tmp_path / "kernel.npy"
    np.save(path, rng.standard_normal((3, 2)) @ waves)
    return path


@pytest.fixture
def broken(kernel: Path) -> Path:
    """The same with one value that is none."""
    h = np.load(kernel)
    h[1, 7] = np.nan
    np.save(kernel, h)
    return kernel


def test_writes_a_checkpoint_the_other_commands_open(run, kernel, tmp_path):
    out = tmp_path / "model.safetensors"
    code, text, err = run("realize", kernel, *SHORT, "-o", out)
    assert (code, err) == (0, "")
    for part in ("3×1→1", "100", "era", "least", "bound", "H∞ error", "lag error", "beyond", f"Wrote {out}"):
        assert part in text
    code, text, _ = run("hsv", out, "--json")
    layer = json.loads(text)["layers"][0]
    assert (code, layer["order"], layer["systems"]) == (0, 4, 3)
    code, text, _ = run("compress", out, "--rank", 2, "-o", tmp_path / "smaller.safetensors", "--json")
    assert (code, json.loads(text)["layers"][0]["orders_after"]) == (0, [2, 2, 2])


@pytest.mark.parametrize("method", ["best", "balanced", "era", "aak"])
@pytest.mark.parametrize("target", [("--rank", 4), ("--energy", 0.9), ("--error", 0.1)])
def test_json(run, kernel, method, target):
    code, out, err = run("realize", kernel, *target, "--method", method, "--dry-run", "--json", "--device", "cpu")
    assert (code, err) == (0, "")
    document = RealizeDocument.model_validate_json(out)
    layer = document.layers[0]
    assert (document.command, document.output, document.input.kind) == ("realize", None, "npy")  # type: ignore[union-attr]
    assert (layer.axes, layer.systems, layer.lags, layer.dtype) == ("SL", 3, 100, "F64")
    assert set(layer.methods) <= ({method} if method != "best" else {"balanced", "era", "aak"})
    for order, error, least, bound in zip(layer.orders, layer.hinf_error, layer.least_error, layer.bound, strict=True):
        assert order <= 8
        assert error >= least * (1 - 1e-9)
        assert bound is None or error <= bound * (1 + 1e-9)
    if target[0] == "--error":
        assert layer.hinf_error_relative <= target[1]
    assert not list(kernel.parent.glob("*.safetensors"))


def test_quiet_prints_the_derived_destination(run, kernel):
    assert run("realize", kernel, *SHORT, "--quiet") == (0, f"{kernel.with_name('kernel-rank4.safetensors')}\n", "")


def test_responses_come_from_archives_text_and_checkpoints(run, kernel, tmp_path):
    h = np.load(kernel)
    np.savez(tmp_path / "two.npz", a=h[0], b=h[1], other=np.array(["words"]))
    np.savetxt(tmp_path / "one.csv", h[0])
    code, out, _ = run("realize", tmp_path / "two.npz", "--tensor", "[ab]", *SHORT, "--dry-run", "--json")
    assert (code, [layer["name"] for layer in json.loads(out)["layers"]]) == (0, ["a", "b"])
    code, out, _ = run("realize", tmp_path / "one.csv", *SHORT, "--dry-run", "--json")
    assert (code, json.loads(out)["layers"][0]["lag_error_relative"] < 1e-9) == (0, True)
    made = tmp_path / "made.safetensors"
    assert run("realize", kernel, *SHORT, "-o", made).code == 0
    arguments = ("--tensor", "kernel.B", "--axes", "SLpm", "--rank", 1, "--dry-run", "--json")
    code, out, err = run("realize", made, *arguments)  # any tensor will do as numbers
    assert (code, err) == (0, "")
    assert json.loads(out)["input"]["kind"] == "safetensors"


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ((), "exactly one of --rank, --energy and --error"),
        (("--rank", 4, "--error", 0.1), "exactly one"),
        (("--rank", 0), "--rank 0"),
        (("--rank", 101), "above 100"),
        (("--energy", 1), "between 0 and 1"),
        (("--error", "nan"), "--error nan"),
        (("--error", 1e-20), "cannot be met"),
        (("--rank", 4, "--axes", "L"), "names 1 axes"),
        (("--rank", 4, "--axes", "SX"), "not a list of axes"),
        (("--rank", 4, "--tensor", "a"), "without a name"),
        (("--rank", 4, "--method", "magic"), "aak"),
        (("--rank", 4, "-o", "model.npy"), ".safetensors"),
    ],
)
def test_bad_requests_exit_2_with_one_line(run, kernel, args, reason):
    _refused(run("realize", kernel, "--device", "cpu", *args), reason)
    assert [path.name for path in kernel.parent.iterdir()] == ["kernel.npy"]


def test_bad_files_exit_2_with_one_line(run, broken, tmp_path):
    _refused(run("realize", broken, *SHORT), "1 of 300 values are NaN")
    _refused(run("realize", tmp_path / "missing.npy", *SHORT), "missing.npy")
    for name, text in {"words.csv": "a,b", "empty.npy": ""}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        _refused(run("realize", tmp_path / name, *SHORT), "cannot be read as numbers")


def test_an_existing_destination_is_left_alone(run, kernel, tmp_path):
    out = tmp_path / "model.safetensors"
    out.write_text("mine", encoding="utf-8")
    _refused(run("realize", kernel, *SHORT, "-o", out), "exists already")
    assert out.read_text(encoding="utf-8") == "mine"


def _refused(outcome, reason: str) -> None:
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("ssmtool: error: ")
    assert "internal" not in outcome.err
    assert reason in outcome.err
    assert outcome.err.count("\n") == 1
