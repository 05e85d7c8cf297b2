"""The safetensors library reads what we write, and we read what it writes."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ssmtool.checkpoint import Rewrite, TensorInfo, open_checkpoint
from ssmtool.checkpoint.header import build_header, parse_header

TORCH = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "C64": torch.complex64,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U64": torch.uint64,
    "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
SHAPES = {"matrix": (2, 3), "scalar": (), "empty": (4, 0), "one": (1,)}


def sample(dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    values = torch.arange(6, dtype=torch.float64)[: int(np.prod(shape))].reshape(shape) / 2
    if dtype == "C64":
        return (values - 1j * values).to(TORCH[dtype])
    whole = values if dtype in ("F64", "F32", "F16", "BF16") else values * 2
    return whole.to(TORCH[dtype])


@pytest.mark.parametrize("dtype", TORCH)
def test_what_the_library_writes(dtype: str, tmp_path: Path) -> None:
    tensors = {name: sample(dtype, shape) for name, shape in SHAPES.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    source = open_checkpoint(tmp_path / "a.safetensors")
    assert source.tensors == {name: TensorInfo(shape, dtype) for name, shape in SHAPES.items()}
    for name, tensor in tensors.items():
        wide = torch.complex128 if dtype == "C64" else torch.float64 if "F" in dtype else torch.int64
        np.testing.assert_array_equal(source.read(name), tensor.to(wide).numpy(), strict=True)


@pytest.mark.parametrize("dtype", TORCH)
def test_what_we_write(dtype: str, tmp_path: Path) -> None:
    save_file({"keep": torch.ones(3, dtype=torch.int8), "drop": torch.ones(1)}, tmp_path / "a.safetensors")
    wide = torch.complex128 if dtype == "C64" else torch.float64
    with Rewrite(open_checkpoint(tmp_path / "a.safetensors"), tmp_path / "b.safetensors") as rewrite:
        rewrite.drop("drop")
        for name, shape in SHAPES.items():
            rewrite.put(name, sample(dtype, shape).to(wide).numpy(), dtype)
        rewrite.metadata["é"] = '"\n'
        rewrite.commit()
    loaded = load_file(tmp_path / "b.safetensors")
    assert loaded.keys() == {*SHAPES, "keep"}
    for name, shape in SHAPES.items():
        assert loaded[name].dtype == TORCH[dtype]
        assert torch.equal(loaded[name], sample(dtype, shape))
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata() == {"é": '"\n'}
        assert torch.equal(file.get_slice("matrix")[1:], sample(dtype, (2, 3))[1:])


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_dtypes_that_pass_through_as_bytes(dtype: str, tmp_path: Path) -> None:
    tensor = torch.arange(5.0).to(getattr(torch, dtype))
    save_file({"a": tensor, "b": torch.ones(2)}, tmp_path / "a.safetensors")
    torch.save({"a": tensor, "b": torch.ones(2)}, tmp_path / "a.pt")
    for suffix in ("safetensors", "pt"):
        out = tmp_path / f"{suffix}.safetensors"
        with Rewrite(open_checkpoint(tmp_path / f"a.{suffix}"), out) as rewrite:
            rewrite.drop("b")
            rewrite.commit()
        assert torch.equal(load_file(out)["a"].view(torch.uint8), tensor.view(torch.uint8))


def test_headers_are_those_of_the_library(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "a.safetensors", metadata={"format": "pt"})
    data = (tmp_path / "a.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = parse_header(data[8 : 8 + length], file_size=len(data), where="a")
    ours = build_header({name: span.info for name, span in header.spans.items()}, header.metadata)
    assert json.loads(ours[8:]) == json.loads(data[8 : 8 + length])
    assert len(ours) % 8 == 0
