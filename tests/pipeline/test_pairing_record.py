"""What a reduced checkpoint says of itself may be anything: it is taken where it fits, and is no error elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ssmtool.errors import MismatchError
from ssmtool.pipeline.compress import compress
from ssmtool.pipeline.model import load
from ssmtool.pipeline.pairing import recorded_bounds
from ssmtool.pipeline.portrait import portrait
from ssmtool.pipeline.selective_validate import recorded_prediction
from tests.pipeline.checkpoints import tiny, write_folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    source = write_folder(tmp_path / "a", *tiny("s4d", "s4d"))
    compress(load(source), tmp_path / "b", rank=2, device="cpu")
    return source, tmp_path / "b"


def with_record(pair: tuple[Path, Path], record: str | dict[str, Any]) -> dict[str, np.ndarray]:
    """The bounds that are read when the record is another."""
    text = record if isinstance(record, str) else json.dumps(record)
    file = pair[1] / "model.safetensors"
    save_file(load_file(file), file, metadata={"ssmtool": text})
    one, two = load(pair[0]), load(pair[1])
    assert recorded_prediction(one, two) is None
    return recorded_bounds(one, two)


def test_what_compress_records_is_read(pair: tuple[Path, Path]) -> None:
    found = recorded_bounds(load(pair[0]), load(pair[1]))
    assert all(np.isfinite(bound).all() and bound.shape == (4,) for bound in found.values())


@pytest.mark.parametrize("layers", [None, 7, "x", [1], [{}], [{"name": []}], [{"name": "a", "bound": {"x": 1}}]])
def test_what_does_not_fit_is_not_taken(pair: tuple[Path, Path], layers: Any) -> None:
    digest = load(pair[0]).checkpoint.sha256()
    assert with_record(pair, {"source_sha256": digest, "layers": layers}) == {}


@pytest.mark.parametrize("bound", [[], [1.0], [None] * 9, [10**400] * 4, ["x"] * 4, [[1]] * 4, 5])
def test_bounds_of_other_systems_are_not_taken(pair: tuple[Path, Path], bound: Any) -> None:
    digest = load(pair[0]).checkpoint.sha256()
    assert with_record(pair, {"source_sha256": digest, "layers": [{"name": "s4_layers.0", "bound": bound}]}) == {}


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "7", '"x"', "{}", "[1]"])
def test_no_record_is_no_error(pair: tuple[Path, Path], text: str) -> None:
    assert with_record(pair, text) == {}
    found = portrait(load(pair[0]), load(pair[1]), parts=("comparison",), timings=False, device="cpu")
    assert found.record == {}


@pytest.mark.parametrize("source", [7, None, ["a"], "\x1b[2J", "0" * 64])
def test_another_source_is_named_and_obeyed_in_nothing(pair: tuple[Path, Path], source: Any) -> None:
    with pytest.raises(MismatchError, match="was made from another one") as caught:
        with_record(pair, {"source_sha256": source, "layers": []})
    assert caught.value.line().isprintable()
