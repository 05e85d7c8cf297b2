"""A new safetensors file: read back by another reader, and never half there."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors import safe_open

from ssmtool.checkpoint.fresh import NewFile
from ssmtool.errors import OutputError


def test_another_reader_finds_what_was_written(tmp_path):
    path = tmp_path / "new.safetensors"
    odd, wide = np.arange(3, dtype=np.float64), np.linspace(0, 1, 10).reshape(2, 5)
    assert NewFile(path).write({"odd": (odd, "F32"), "wide": (wide, "F64")}, {"key": "value"}) == path
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"key": "value"}
        np.testing.assert_array_equal(file.get_tensor("odd"), odd.astype(np.float32))
        np.testing.assert_array_equal(file.get_tensor("wide"), wide)
    assert [entry.name for entry in tmp_path.iterdir()] == ["new.safetensors"]


@pytest.mark.parametrize("name", ["there.safetensors", "new.bin", "missing/new.safetensors"])
def test_destinations_are_refused_before_any_work(tmp_path, name):
    (tmp_path / "there.safetensors").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError):
        NewFile(tmp_path / name)


def test_what_cannot_be_stored_leaves_nothing_behind(tmp_path):
    for tensors in ({}, {"__metadata__": (np.ones(2), "F32")}, {"z": (np.ones(2) * 1j, "C128")}):
        with pytest.raises(OutputError):
            NewFile(tmp_path / "new.safetensors").write(tensors, {})
    place = NewFile(tmp_path / "late.safetensors")
    (tmp_path / "late.safetensors").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError):
        place.write({"x": (np.ones(2), "F32")}, {})
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("late.safetensors", "mine")]
