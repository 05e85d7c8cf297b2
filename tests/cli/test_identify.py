"""ssmtool identify."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.signal import lfilter

from ssmtool.report.identify_document import IdentifyDocument


@pytest.fixture
def records(tmp_path: Path) -> tuple[Path, Path]:
    """A resonance without noise: two states, poles 0.75 +- 0.497i."""
    u = np.random.default_rng(0).standard_normal(600)
    np.save(tmp_path / "u.npy", u)
    np.save(tmp_path / "y.npy", lfilter([0.5, 0.2], [1, -1.5, 0.81], u))
    return tmp_path / "u.npy", tmp_path / "y.npy"


def test_records_become_a_checkpoint_that_the_other_commands_open(run, records):
    code, out, err = run("identify", *records)
    made = records[1].with_name("y-order2.safetensors")
    assert (code, err) == (0, "")
    assert "100.00 %" in out
    assert "order, largest fall" in out
    assert "The order 2 was chosen" in out
    assert f"Next: ssmtool hsv {made}" in out
    assert run("hsv", made).code == 0


def test_json(run, records):
    code, out, err = run("identify", *records, "--order", "2", "--dry-run", "--json")
    assert (code, err) == (0, "")
    document = IdentifyDocument.model_validate_json(out)
    assert (document.order, document.suggested_order, document.held_out) == (2, 2, 120)
    assert document.poles == [pytest.approx([0.75, np.sqrt(0.81 - 0.75**2)])]
    assert document.held_out_fit == [pytest.approx(100, abs=1e-6)]
    assert document.output is None
    assert isinstance(document.input, list)
    assert [source.kind for source in document.input] == ["npy", "npy"]


def test_quiet_prints_the_path(run, records, tmp_path):
    out = tmp_path / "o.safetensors"
    assert run("identify", *records, "--order", "2", "-q", "-o", out) == (0, f"{out}\n", "")
    assert run("identify", *records, "-q", "--dry-run") == (0, "", "")


def test_text_files(run, records, tmp_path):
    for path in records:
        np.savetxt(path.with_suffix(".csv"), np.load(path), delimiter=",")
    code, out, _ = run("identify", tmp_path / "u.csv", tmp_path / "y.csv", "--order", "2", "--dry-run")
    assert code == 0
    assert "100.00 %" in out


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--order", "0"], "--order 0"),
        (["--order", "400"], "too few"),
        (["--order", "x"], "--order"),
        (["--holdout", "2"], "--holdout 2"),
        (["--order", "8", "--horizon", "3"], "horizon of 3"),
        (["-o", "out"], "Name it out.safetensors"),
    ],
)
def test_bad_command_lines_exit_2_with_one_line(run, records, args, reason):
    code, out, err = run("identify", *records, *args)
    assert (code, out) == (2, "")
    assert reason in err
    assert err.count("\n") == 1
    assert "internal" not in err
    assert sorted(path.name for path in records[0].parent.iterdir()) == ["u.npy", "y.npy"]


def test_bad_records_exit_2_with_one_line(run, records, tmp_path):
    np.save(tmp_path / "short.npy", np.ones(10))
    np.save(tmp_path / "flat.npy", np.ones(600))
    for args, reason in (
        ((records[0], tmp_path / "short.npy"), "come out"),
        ((tmp_path / "flat.npy", records[1]), "not persistently exciting"),
        ((records[0], tmp_path / "absent.npy"), "absent.npy"),
        ((records[0],), "OUTPUT"),
    ):
        code, out, err = run("identify", *args)
        assert (code, out) == (2, "")
        assert reason in err
        assert err.count("\n") == 1
        assert "internal" not in err
