"""ssmtool report."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from tests.pipeline.language_models import byte_model


@pytest.fixture
def reduced(run, s4d, tmp_path):
    assert run("compress", s4d, "--rank", 2, "-o", tmp_path / "reduced").code == 0
    return tmp_path / "reduced"


def numbers(path):
    """What the slider is given."""
    return json.loads(re.findall(r'id="report-data">(.*?)</script>', path.read_text(encoding="utf-8"))[0])


def test_a_page_is_written_and_says_so(run, s4d, reduced, tmp_path):
    out = tmp_path / "report.html"
    code, text, err = run("report", s4d, reduced, "-o", out, "--measure", "2,4", "--measure", 3)
    assert (code, err) == (0, "")
    assert text.startswith(f"Wrote {out} (")
    page = out.read_text(encoding="utf-8")
    assert f"ssmtool report {s4d} {reduced}" in page
    assert "--measure" in page
    for layer in numbers(out)["layers"]:
        assert [rank for rank, _ in layer["measured"]] == [2, 3, 4]
        assert layer["reduced"][0] == 2
    assert "Kernel timings" in page


def test_an_existing_report_is_replaced_and_nothing_stays_beside_it(run, s4d, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "report.md"
    out.write_text("old")
    assert run("report", s4d, "-o", out, "--quiet", "--title", "My *model*") == (0, "", "")
    assert out.read_text(encoding="utf-8").startswith("# My \\*model\\*")
    assert [path.name for path in folder.iterdir()] == ["report.md"]


def test_no_timings_measures_the_distance_and_runs_nothing(run, s4d, reduced, tmp_path):
    out = tmp_path / "report.md"
    assert run("report", s4d, reduced, "--no-timings", "-o", out).code == 0
    page = out.read_text(encoding="utf-8")
    assert "Kernel timings" not in page
    assert "largest H∞ error" in page


def test_the_same_inputs_give_the_same_bytes_with_and_without_a_cache(run, s4d, tmp_path):
    cache, outs = tmp_path / "cache", []
    for extra in (["--no-cache"], ["--cache", cache], ["--cache", cache]):
        out = tmp_path / "report.html"
        assert run("report", s4d, "-o", out, "--measure", 3, *extra).code == 0
        outs.append(re.sub(r">ssmtool report [^<]*<", "", out.read_text(encoding="utf-8")))
    assert outs[0] == outs[1] == outs[2]


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_selective_models_against_a_reduction(run, tmp_path, kind):
    model, out = byte_model(tmp_path / kind, kind), tmp_path / "report.md"
    tokens = tmp_path / "tokens.npy"
    np.save(tokens, np.random.default_rng(0).integers(0, 256, (8, 24)))
    small = tmp_path / "small"
    compressed = run("compress", model, "--rank", 4, "--tokens", tokens, "--select", "ghost", "-o", small)
    assert compressed.code == 0
    assert run("report", model, small, "--tokens", tokens, "-o", out).code == 0
    page = out.read_text(encoding="utf-8")
    for part in ("perplexity goes from", "Token dynamics", "effective size", "Layers and kernel timings", "tokens.npy"):
        assert part in page
    assert run("report", model, "-o", out).code == 0
    assert "need tokens: --tokens FILE" in out.read_text(encoding="utf-8")


def test_unstable_and_redundant_layers_are_named_not_refused(run, unstable, redundant, tmp_path):
    for model, words in ((unstable, "on or outside the unit circle"), (redundant, "exactly redundant")):
        out = tmp_path / "report.md"
        code, _, err = run("report", model, "-o", out, "--measure", "1,4")
        assert (code, err) == (0, "")
        assert words in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "-o report.html"),
        (["-o", "report.docx"], ".html or .md or .pdf"),
        (["-o", "none/report.html"], "mkdir -p"),
        (["-o", "model.safetensors"], ".html or .md or .pdf"),
        (["-o", "r.html", "--measure", "8,x"], "'x' is not a number of states"),
        (["-o", "r.html", "--measure", "0"], "'0' is not a number of states"),
        (["-o", "r.html", "--self", "2", "--tokens", "t.npy"], "--self"),
    ],
)
def test_wrong_options_are_refused_before_the_work(run, tmp_path, options, reason):
    code, out, err = run("report", tmp_path / "no-such-model", *options)
    assert (code, out) == (2, "")
    assert reason in err
    assert err.count("\n") == 1
    assert "internal" not in err


def test_an_output_that_cannot_be_written_is_an_error(run, s4d):
    code, _, err = run("report", s4d, "-o", "/proc/report.html")
    assert code == 2
    assert "/proc/report.html" in err
    assert "internal" not in err


def test_a_model_that_does_not_belong_is_refused(run, s4d, unstable, tmp_path):
    code, _, err = run("report", s4d, unstable, "-o", tmp_path / "report.html")
    assert code == 2
    assert "different layers" in err
    assert not (tmp_path / "report.html").exists()
