"""Arrays from files, and which axis is which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssmtool.errors import CheckpointError, SsmtoolError, UsageError
from ssmtool.pipeline.lags import lags_of
from ssmtool.pipeline.numbers import read_numbers


def test_every_kind_of_file(tmp_path: Path):
    values = np.arange(6.0).reshape(2, 3) / 8
    np.save(tmp_path / "a.npy", values.astype(np.float32))
    np.savez(tmp_path / "a.npz", one=values, two=values[0])
    (tmp_path / "a.csv").write_text("\ufeff0, 0.125, 0.25\n0.375; 0.5; 0.625\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("# lags\n0\n0.125\n0.25\n")
    save_file({"k.one": torch.from_numpy(values).bfloat16(), "other": torch.ones(2)}, tmp_path / "a.safetensors")
    torch.save({"k.one": torch.from_numpy(values)}, tmp_path / "a.pt")
    for name, tensors in (("a.npy", None), ("a.npz", ["one"]), ("a.csv", None), ("a.safetensors", ["k.*"])):
        (array,) = read_numbers(tmp_path / name, tensors).arrays.values()
        assert np.array_equal(array, values)  # eighths survive bfloat16
    assert np.array_equal(read_numbers(tmp_path / "a.pt").arrays["k.one"], values)
    assert np.array_equal(read_numbers(tmp_path / "a.txt").arrays[""], values[0])
    assert list(read_numbers(tmp_path / "a.npz", ["t*", "one"]).arrays) == ["one", "two"]
    single = [bool(read_numbers(tmp_path / n, t).single) for n, t in (("a.npy", None), ("a.pt", None), ("a.csv", None))]
    assert single == [True, False, False]


@pytest.mark.parametrize(
    ("name", "content", "tensors", "reason"),
    [
        ("a.npy", np.array([1.0, np.nan]), None, "1 of 2 values are NaN or infinite"),
        ("a.npy", np.array([1j]), None, "is complex, not real numbers"),
        ("a.npy", np.array(["x"]), None, "not real numbers"),
        ("a.npy", np.zeros((0, 3)), None, "is empty"),
        ("a.npy", np.ones(3), ["x"], "one array without a name"),
        ("a.npz", {"x": np.ones(2), "y": np.ones(2)}, None, "holds 2 arrays, and none is chosen. Choose with --tensor"),
        ("a.npz", {"x": np.ones(2)}, ["z"], "no array matches 'z'. There are: 'x'"),
        ("a.csv", "1,nan\n", None, "1 of 2 values are NaN"),
        ("a.csv", "time,value\n0,1\n", None, "cannot be read as numbers"),
        ("a.txt", "# no\n", None, "numbers: there are none"),
        ("a.csv", "1,2\n3\n", None, "rows have different lengths"),
        ("a.npy", "not an array", None, "cannot be read as numbers"),
        ("a.npz", "not an archive", None, "cannot be read as numbers"),
        ("a.safetensors", "no header", None, "not a safetensors file|header"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, name: str, content, tensors, reason: str):
    path = tmp_path / name
    if isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)
    with pytest.raises(SsmtoolError, match=reason) as caught:
        read_numbers(path, tensors)
    assert str(path) in caught.value.line()


def test_objects_are_never_unpickled(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="cannot be read as numbers"):
        read_numbers(tmp_path / "a.npy")
    with pytest.raises(CheckpointError, match=r"does not exist|No such file"):
        read_numbers(tmp_path / "absent.npy")


@pytest.mark.parametrize(
    ("shape", "axes", "read", "sizes"),
    [
        ((7,), None, "L", (1, 1, 1, 7)),
        ((2, 7), None, "SL", (2, 1, 1, 7)),
        ((2, 3, 7), None, "pmL", (1, 2, 3, 7)),
        ((4, 2, 3, 7), None, "SpmL", (4, 2, 3, 7)),
        ((7, 2), "LS", "LS", (2, 1, 1, 7)),
        ((2, 5, 7), "pSL", "pSL", (5, 2, 1, 7)),
    ],
)
def test_axes(tmp_path: Path, shape, axes, read, sizes):
    values = np.random.default_rng(0).standard_normal(shape)
    np.save(tmp_path / "a.npy", values)
    (lags,) = lags_of(read_numbers(tmp_path / "a.npy"), axes)
    assert (lags.axes, lags.h.shape, lags.name, lags.batch) == (read, sizes, "kernel", "S" in read)
    # Entry by entry, by the letters.
    for index in np.ndindex(*shape):
        at = dict(zip(read, index, strict=True))
        assert lags.h[tuple(at.get(letter, 0) for letter in "SpmL")] == values[index]


def test_readings_that_may_be_meant_otherwise_are_said(tmp_path: Path):
    for shape, words in (((1, 16, 8), "pSL"), ((20, 4), "--axes LS"), ((4, 20), None)):
        np.save(tmp_path / "a.npy", np.ones(shape))
        (lags,) = lags_of(read_numbers(tmp_path / "a.npy"), None)
        assert (words in lags.remarks[0]) if words else not lags.remarks


@pytest.mark.parametrize(
    ("shape", "axes", "reason"),
    [
        ((2, 3), "XL", "is not a list of axes"),
        ((2, 3), "LL", "is not a list of axes"),
        ((2, 3), "Sp", "is not a list of axes"),
        ((2, 3), "SpL", "names 3 axes"),
        ((2, 2, 2, 2, 2), None, "1 to 4 axes are read"),
    ],
)
def test_axes_that_do_not_fit(tmp_path: Path, shape, axes, reason):
    np.save(tmp_path / "a.npy", np.ones(shape))
    with pytest.raises(UsageError, match=reason):
        lags_of(read_numbers(tmp_path / "a.npy"), axes)
