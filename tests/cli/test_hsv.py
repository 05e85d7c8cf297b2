"""ssmtool hsv."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys

import pytest

import ssmtool
from ssmtool.cache import Cache
from ssmtool.lti.orders import order_for_energy, order_for_error
from tests.cli.test_process import ENVIRONMENT


def number(value):
    """A float of a JSON document."""
    return float(value)  # "Infinity" too


def test_json_holds_exactly_the_values_of_the_library(run, s4d):
    code, out, _ = run("hsv", s4d, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["input"]["sha256"] == ssmtool.load(s4d).checkpoint.sha256()
    spectra = ssmtool.load(s4d).hsv()
    assert [layer["name"] for layer in document["layers"]] == [entry.layer.name for entry in spectra]
    for layer, entry in zip(document["layers"], spectra, strict=True):
        sigma = entry.spectrum.sigma
        assert layer["sigma"] == sigma.tolist()
        assert all(len(row) == layer["order"] == 6 for row in layer["sigma"])
        assert len(layer["sigma"]) == layer["systems"] == 4
        assert layer["stored_slots"] == 3
        assert layer["orders"]["energy_0.9"] == order_for_energy(sigma, 0.9).tolist()
        assert layer["orders"]["energy_0.99"] == order_for_energy(sigma, 0.99).tolist()
        assert layer["orders"]["energy_0.999"] == order_for_energy(sigma, 0.999).tolist()
        assert layer["orders"]["error_1e-2"] == order_for_error(sigma, 1e-2).tolist()
        assert layer["orders"]["error_1e-3"] == order_for_error(sigma, 1e-3).tolist()


def test_text_has_a_row_per_layer_and_explains_its_columns(run, s4d):
    code, out, err = run("hsv", s4d)
    assert (code, err) == (0, "")
    assert "s4_layers.0" in out
    assert "s4_layers.1" in out
    assert "median (largest)" in out
    assert "σ = ∞" not in out
    assert max(map(len, out.splitlines()[1:])) <= 80


def test_layers_are_chosen_by_glob(run, s4d):
    layers = json.loads(run("hsv", s4d, "--layer", "*.1", "--json").out)["layers"]
    assert [layer["name"] for layer in layers] == ["s4_layers.1"]
    both = json.loads(run("hsv", s4d, "--layers", "*.1", "--layer", "s4_layers.0", "--json").out)["layers"]
    assert len(both) == 2


def test_a_glob_without_a_layer_is_an_error_that_lists_them(run, s4d):
    code, out, err = run("hsv", s4d, "--layer", "mixer.*")
    assert (code, out) == (2, "")
    assert "'mixer.*'" in err
    assert "s4_layers.1" in err


def test_unstable_states_are_infinite(run, unstable):
    code, out, _ = run("hsv", unstable, "--json")
    first, second = json.loads(out)["layers"]
    assert code == 0
    assert (first["unstable"], second["unstable"]) == (2, 0)
    assert first["sigma"][0][:2] == ["Infinity", "Infinity"]
    assert [math.isinf(number(value)) for value in first["sigma"][0]] == [True, True] + [False] * 6
    text = run("hsv", unstable).out
    assert "σ = ∞" in text
    assert "on or outside the unit circle" in text


def test_redundant_states_are_zero(run, redundant):
    first = json.loads(run("hsv", redundant, "--json").out)["layers"][0]
    assert first["redundant"] == 4 * 2
    assert all(row[-2:] == [0.0, 0.0] and row[-3] > 0 for row in first["sigma"])


@pytest.mark.parametrize("checkpoint", ["s4d", "unstable", "redundant"])
def test_csv_equals_json(run, request, tmp_path, checkpoint):
    path, file = request.getfixturevalue(checkpoint), tmp_path / "hsv.csv"
    layers = json.loads(run("hsv", path, "--csv", file, "--json").out)["layers"]
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["layer", "system", "k", "sigma", "relative"]
    expected = [
        (layer["name"], i, k, number(value))
        for layer in layers
        for i, row in enumerate(layer["sigma"])
        for k, value in enumerate(row, start=1)
    ]
    assert [(r["layer"], int(r["system"]), int(r["k"]), float(r["sigma"])) for r in rows] == expected
    finite = [float(r["relative"]) for r in rows if math.isfinite(float(r["relative"]))]
    assert max(finite) == 1.0
    assert min(finite) >= 0.0


@pytest.mark.parametrize(("suffix", "magic"), [(".SVG", b"<?xml"), (".png", b"\x89PNG")])
def test_plots_are_written_in_the_format_of_their_suffix(run, unstable, tmp_path, suffix, magic):
    file = tmp_path / f"hsv{suffix}"
    code, out, _ = run("hsv", unstable, "--plot", file)
    assert code == 0
    assert file.read_bytes().startswith(magic)
    assert f"Wrote {file}" in out


def test_quiet_writes_the_files_only(run, s4d, tmp_path):
    assert run("hsv", s4d, "--quiet", "--csv", tmp_path / "hsv.csv") == (0, "", "")
    assert (tmp_path / "hsv.csv").exists()


@pytest.mark.parametrize(
    ("option", "name", "reason"),
    [
        ("--plot", "hsv.jpg", ".svg or .png or .pdf"),
        ("--plot", "model.safetensors", ".svg or .png or .pdf"),
        ("--csv", "hsv.txt", ".csv"),
        ("--csv", "none/hsv.csv", "mkdir -p"),
    ],
)
def test_wrong_files_are_refused_before_the_work(run, tmp_path, option, name, reason):
    code, out, err = run("hsv", tmp_path / "no-such-model", option, tmp_path / name)
    assert (code, out) == (2, "")
    assert reason in err
    assert option in err


def test_a_file_that_cannot_be_written_is_an_error(run, s4d):
    code, _, err = run("hsv", s4d, "--csv", "/proc/hsv.csv")
    assert code == 2
    assert "/proc/hsv.csv" in err
    assert "internal" not in err


def test_what_is_known_is_shown_without_loading_pytorch(s4d, tmp_path, run):
    first = run("hsv", s4d, "--cache", tmp_path / "kept")
    code = (
        "import sys; from ssmtool.__main__ import main; "
        f"code = main(['hsv', {str(s4d)!r}, '--cache', {str(tmp_path / 'kept')!r}, '--device', 'cpu']); "
        "heavy = {'torch', 'scipy', 'matplotlib'} & set(sys.modules); "
        "sys.exit(f'{code} {sorted(heavy)}' if heavy or code else 0)"
    )
    again = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout, again.stderr) == (0, first.out, "")


def test_nothing_is_kept_if_that_is_asked_for(run, s4d, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cache, "default", lambda: Cache(tmp_path / "own"))
        assert run("hsv", s4d, "--no-cache").code == 0
        assert not (tmp_path / "own").exists()
        assert run("hsv", s4d).code == 0
        assert len(list((tmp_path / "own" / "results").iterdir())) == 2
    code, out, err = run("hsv", s4d, "--no-cache", "--cache", tmp_path)
    assert (code, out) == (2, "")
    assert err == "ssmtool: error: --cache and --no-cache contradict each other\n"


def test_a_cache_that_cannot_be_written_is_no_error(run, s4d):
    assert run("hsv", s4d, "--cache", "/proc/nothing") == run("hsv", s4d, "--no-cache")


def test_without_ray_the_error_says_what_to_install(run, s4d, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, out, err = run("hsv", s4d, "--engine", "ray")
    assert (code, out) == (2, "")
    assert err == (
        "ssmtool: error: --engine ray needs Ray, which is not installed. Install it: pip install 'ssmtool[ray]'\n"
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--address", "auto"], "--engine ray"),
        (["--engine", "ray", "--jobs", "2"], "--jobs"),
        (["--jobs", "0"], "--jobs"),
        (["--engine", "spark"], "--engine"),
    ],
)
def test_engines_and_their_options_go_together(run, s4d, options, reason):
    code, out, err = run("hsv", s4d, *options)
    assert (code, out) == (2, "")
    assert reason in err
    assert "internal" not in err


@pytest.mark.parametrize("options", [["--jobs", "2"], ["--engine", "ray"]])
@pytest.mark.parametrize("command", [["hsv"], ["compress", "--rank", "2"]])
def test_engines_are_not_for_selective_layers(run, tiny, command, options):
    code, out, err = run(*command, tiny("mamba", "mamba-ssm"), *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"ssmtool: error: {options[0]}")
    assert "linear time-invariant" in err
