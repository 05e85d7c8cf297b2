"""Files of records become a layer: the fit is that of what is stored, and bad files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.signal import lfilter

from ssmtool.checkpoint import open_checkpoint
from ssmtool.errors import DataError, OutputError, SsmtoolError, UsageError
from ssmtool.lti.norms import to_dense
from ssmtool.pipeline.identify import identify_files
from ssmtool.pipeline.model import load


@pytest.fixture
def records(tmp_path: Path) -> tuple[Path, Path]:
    """Noise through a resonance, two sequences of 500 steps, some noise on the output."""
    rng = np.random.default_rng(0)
    u = rng.standard_normal((2, 500, 1))
    y = lfilter([0.5, 0.2], [1, -1.5, 0.81], u, axis=1) + 0.05 * rng.standard_normal(u.shape)
    np.save(tmp_path / "u.npy", u)
    np.save(tmp_path / "y.npy", y)
    return tmp_path / "u.npy", tmp_path / "y.npy"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_fit_is_that_of_the_stored_system(records, tmp_path, dtype):
    inputs, outputs = records
    done = identify_files(inputs, outputs, tmp_path / "out.safetensors", order=2, dtype=dtype)
    assert done.held_out == 100
    model = load(tmp_path / "out.safetensors")
    (layer,) = model.layers
    assert layer.name == "ssm"
    full = to_dense(model.system(layer))
    u, y = (np.load(path) for path in records)
    # Step by step; the initial state by least squares on the part that was known.
    A, B, C, D = full.A[0], full.B[0], full.C[0], full.D[0]
    free = np.array([(C @ np.linalg.matrix_power(A, k))[0] for k in range(500)])
    error = np.empty((2, 100))
    for s in range(2):
        x, forced = np.zeros(len(A)), []
        for now in u[s]:
            x = A @ x + B @ now
            forced.append((C @ x + D @ now)[0])
        start = np.linalg.lstsq(free[:400], (y[s, :, 0] - forced)[:400], rcond=1e-12)[0]
        error[s] = y[s, 400:, 0] - (np.array(forced) + free @ start)[400:]
    spread = y[:, 400:, 0] - y[:, 400:, 0].mean(axis=1, keepdims=True)
    expected = 100 * (1 - np.linalg.norm(error) / np.linalg.norm(spread))
    assert done.held_out_fit == pytest.approx(expected, abs=1e-4)
    assert expected > 95
    stored = {info.dtype for info in open_checkpoint(tmp_path / "out.safetensors").tensors.values()}
    assert stored == {"F32" if dtype == "float32" else "F64"}


def test_nothing_held_out_and_nothing_written(records):
    done = identify_files(*records, holdout=0, dry_run=True)
    assert (done.held_out_fit, done.output, done.held_out) == (None, None, 0)
    assert sorted(path.name for path in records[0].parent.iterdir()) == ["u.npy", "y.npy"]


def test_the_default_name_says_the_order(records):
    done = identify_files(*records)
    assert done.output == records[1].with_name(f"y-order{done.found.suggested}.safetensors")
    assert not done.given


def test_constant_outputs_have_no_fit(records):
    y = np.load(records[1])
    np.save(records[1], np.concatenate([y, np.ones_like(y)], axis=2))
    done = identify_files(*records, order=3, dry_run=True)
    assert np.isfinite(done.fit[0])
    assert np.isnan(done.fit[1])


@pytest.mark.parametrize(
    ("u", "y", "options", "error", "reason"),
    [
        (np.ones(50), np.ones(40), {}, DataError, "1 sequences of 50 steps go in, and 1 of 40 come out"),
        (np.ones((2, 50, 1)), np.ones((3, 50, 1)), {}, DataError, "2 sequences of 50"),
        (np.ones((2, 500)), np.ones((2, 500)), {}, DataError, "has 2 steps of 500 channels. Time comes before"),
        (np.ones((1, 1, 50, 1)), np.ones(50), {}, DataError, "has shape"),
        (np.array([1.0, np.nan]), np.ones(2), {}, SsmtoolError, "1 of 2 values are NaN"),
        (np.ones(50), np.ones(50), {"order": 0}, UsageError, "--order 0"),
        (np.ones(50), np.ones(50), {"horizon": -1}, UsageError, "--horizon -1"),
        (np.ones(50), np.ones(50), {"holdout": 1.0}, UsageError, "--holdout 1"),
        (np.ones(50), np.ones(50), {"dtype": "int8"}, UsageError, "no dtype"),
    ],
)
def test_refusals_leave_nothing_behind(tmp_path, u, y, options, error, reason):
    np.save(tmp_path / "u.npy", u)
    np.save(tmp_path / "y.npy", y)
    with pytest.raises(error, match=reason):
        identify_files(tmp_path / "u.npy", tmp_path / "y.npy", **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["u.npy", "y.npy"]


def test_an_existing_destination_is_refused_before_any_work(records, monkeypatch):
    monkeypatch.setattr("ssmtool.pipeline.identify.identify", None)
    with pytest.raises(OutputError, match="exists already"):
        identify_files(records[0], records[1], records[0])
