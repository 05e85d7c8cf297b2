"""ssmtool bench."""

from __future__ import annotations

import json

import pytest
import torch

from ssmtool_kernels import native

SMALL = ("bench", "--op", "varying_scan", "--shape", "B=2,L=40,N=8", "--device", "cpu")


def test_every_backend_that_runs_is_held_against_float64(run):
    code, out, err = run(*SMALL, "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    (operation,) = document["operations"]
    assert operation["operation"] == "varying_scan"
    assert {"B": 2, "L": 40, "N": 8}.items() <= operation["shape"].items()
    names = [row["name"] for row in operation["timings"]]
    assert ("cpu" in names) == (not native.missing())
    for row in operation["timings"]:
        assert 0 < row["error"] < 1e-5
        assert 0 < row["gradient_error"] < 1e-5
        assert row["forward_seconds"] > 0
        assert row["backward_seconds"] > 0
        assert row["floor_share"] is None
    assert document["threads"] == torch.get_num_threads()


def test_sweep_over_the_state_size(run):
    code, out, _ = run(*SMALL, "--json", "--sweep", "2,4", "--forward-only", "--backend", "torch")
    (operation,) = json.loads(out)["operations"]
    assert code == 0
    assert operation["sweep"]["sizes"] == [8, 4, 2]
    assert [row["name"] for row in operation["timings"]] == ["torch"]
    assert len(operation["sweep"]["forward_seconds"]["torch"]) == 3
    assert operation["timings"][0]["gradient_error"] is None


def test_float64_is_exact_to_rounding(run):
    _, out, _ = run(*SMALL, "--json", "--dtype", "float64", "--sweep", "0")
    (operation,) = json.loads(out)["operations"]
    assert operation["sweep"] is None
    assert all(row["error"] < 1e-13 for row in operation["timings"])


def test_text_names_sizes_and_backends(run):
    code, out, _ = run(*SMALL, "--backend", "naive")
    assert code == 0
    assert "varying_scan  B=2 L=40 N=8" in out
    assert "naive" in out
    assert "N = 4" in out


def test_list_names_every_operation(run):
    code, out, _ = run("bench", "--list")
    assert code == 0
    for name in ("varying_scan", "diagonal_scan", "selective_scan", "ssd"):
        assert name in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--op", "nothing"), "no operation 'nothing'"),
        (("--shape", "B"), "'B' is no size"),
        (("--shape", "B=x"), "is no size"),
        (("--shape", "Q=3"), "no size 'Q'"),
        (("--sweep", "a"), "no list of sizes"),
        (("--sweep", "16"), "--sweep N from 8 to 16"),
        (("--device", "cuda"), "CUDA"),
    ],
)
def test_nonsense_is_one_line_and_exit_2(run, arguments, said):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    code, out, err = run(*SMALL, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_a_backend_that_cannot_run_here_says_why(run, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    code, _, err = run(*SMALL, "--backend", "triton")
    assert code == 2
    assert "triton" in err
    assert "CUDA" in err
