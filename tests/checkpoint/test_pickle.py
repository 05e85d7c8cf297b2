"""Pickles: what is found in them, and what is refused without being run."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssmtool.checkpoint import TensorInfo, open_checkpoint, pickle_file, state_dict
from ssmtool.errors import CheckpointError
from tests.fuzz.guard import limited

A, B = torch.arange(6.0).reshape(2, 3), torch.ones(2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.pt"


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize(
    ("document", "names"),
    [
        ({"a": A, "b": B}, ["a", "b"]),
        ({"state_dict": {"a": A}, "model": {"b": B, "c": B}}, ["a"]),
        ({"model_state_dict": {"a": A}, "optimizer": {"m": B, "v": B}}, ["a"]),
        ({"params": {"layer": {"a": A}, 3: {"b": B}}}, ["layer.a", "3.b"]),
        ({"model": {"state_dict": {"a": A}}, "step": torch.tensor(4)}, ["a"]),
        ({"mine": {"a": A, "b": B}, "other": {"c": A}}, ["a", "b"]),
        ({"mine": {"a": A}, "adam": {"state": {0: {"m": A, "v": A}}, "param_groups": []}}, ["a"]),
        ({"optimizer_states": [{"state": {0: B}}], "lr_schedulers": [], "ema": {"a": A}}, ["a"]),
        ({"params": {"model": {"a": A}, "head": {"b": B}}}, ["model.a", "head.b"]),
        ({"a": A, "in": {"list": [A, B]}, "note": "text", "optimizer": {"m": B}}, ["a", "in.list.0", "in.list.1"]),
        ({"a": A, "optimizer.gain": B}, ["a", "optimizer.gain"]),
        ({0: A, 1: B}, ["0", "1"]),
        ({"count": torch.tensor(3)}, ["count"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("legacy", [False, True])
def test_where_the_weights_are(path: Path, document: dict, names: list[str], legacy: bool) -> None:
    torch.save(document, path, _use_new_zipfile_serialization=not legacy)
    assert list(open_checkpoint(path).tensors) == names


@pytest.mark.parametrize("legacy", [False, True])
def test_values(path: Path, state: dict[str, torch.Tensor], legacy: bool) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    source = open_checkpoint(path)
    for name, tensor in state.items():
        values = source.read(name)
        assert values.shape == tuple(tensor.shape)
        assert values.tolist() == tensor.tolist()


def test_views(path: Path) -> None:
    tied = {"a": A, "same": A, "row": A[1], "t": A.T, "conj": torch.complex(A, A).conj(), "wide": B[:1].expand(4, 1)}
    parameter = torch.nn.Parameter(A)
    torch.save({**tied, "parameter": parameter, "neg": torch.complex(A, A).conj().imag}, path)
    source = open_checkpoint(path)
    for name, tensor in tied.items():
        assert source.read(name).tolist() == tensor.tolist()
    assert source.read("parameter").tolist() == A.tolist()
    assert source.read("neg").tolist() == (-A).tolist()
    assert source.tensors["t"] == TensorInfo((3, 2), "F32")


def test_file_is_mapped_afresh(path: Path, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_file, "_REMAP", 100)
    torch.save(state, path)
    source = open_checkpoint(path)
    first, second = ({name: b"".join(source.chunks(name)) for name in state} for _ in range(2))
    assert first == second
    torch.save({"other": A}, path.with_name("b"))
    os.replace(path.with_name("b"), path)
    with pytest.raises(CheckpointError, match="changed while it was in use"):
        [list(source.chunks(name)) for name in state]


class Code:
    """Pickles as a call that leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_not_run(path: Path, tmp_path: Path, legacy: bool) -> None:
    torch.save({"a": A, "code": Code(tmp_path / "ran")}, path, _use_new_zipfile_serialization=not legacy)
    before = path.read_bytes()
    refused(path, r"holds more than tensors \(posix.mkdir\) and was not unpickled.*save its state_dict alone")
    assert not (tmp_path / "ran").exists()
    assert path.read_bytes() == before


def test_whole_module_is_refused(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)
    refused(path, r"holds more than tensors \(torch.nn.modules.linear.Linear\)")


def test_torchscript_is_refused(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/constants.pkl", b"\x80\x02).")
        archive.writestr("a/data.pkl", b"\x80\x02).")
        archive.writestr("a/version", b"3\n")
    refused(path, "TorchScript")


@pytest.mark.parametrize("document", [[A], A, 3, "text"])
def test_not_a_state_dict(path: Path, document: object) -> None:
    torch.save(document, path)
    refused(path, r"not a state dict. Save model.state_dict\(\)")


def test_no_tensors(path: Path) -> None:
    torch.save({"optimizer": {"m": A}, "epoch": 3}, path)
    refused(path, "holds no tensors")


def test_endless_nesting(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_dict, "_VISITS", 10_000)
    loop: dict[str, Any] = {"a": A}
    loop["loop"] = loop
    torch.save(loop, path)
    refused(path, "nests more than")
    bomb: list[Any] = [1]
    for _ in range(30):
        bomb = [bomb, bomb, bomb]
    torch.save({"a": A, "bomb": bomb}, path)
    refused(path, "too many nested entries")


def test_two_tensors_of_one_name(path: Path) -> None:
    torch.save({"a.b": A, "a": {"b": B}}, path)
    refused(path, "two tensors named 'a.b'")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (lambda: A.to_sparse(), "'a': is sparse.*to_dense"),
        (lambda: torch.quantize_per_tensor(A, 0.1, 0, torch.qint8), "'a': is quantised.*dequantize"),
        (lambda: torch.empty(2, device="meta"), "'a': is on device meta"),
        (lambda: A.to(torch.complex32), "'a': has dtype complex32"),
        (lambda: torch.ones(1).expand(10**15), "'a': claims 4000000000000000 bytes but stores fewer.*contiguous"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_without_plain_bytes(path: Path, tensor: Any, message: str) -> None:
    torch.save({"a": tensor()}, path)
    refused(path, message)


@pytest.mark.parametrize("keep", [3, 100, -50, -1])
@pytest.mark.parametrize("legacy", [False, True])
def test_truncated(path: Path, state: dict[str, torch.Tensor], keep: int, legacy: bool) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, "truncated or damaged")


def test_other_content(path: Path) -> None:
    save_file({"a": A}, path)
    refused(path, "is a safetensors file, not a PyTorch pickle. Rename it to a.safetensors")
    path.write_bytes(b"<html>")
    refused(path, "HTML")
    path.write_bytes(b"something else")
    refused(path, "is not a PyTorch checkpoint")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", bytes(100))
    refused(path, "not a readable PyTorch checkpoint")


def test_compressed_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10**7))
    refused(path, "compressed zip archive")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_values_that_are_not_finite(tmp_path: Path, bad: float, suffix: str) -> None:
    tensors = {"a": torch.tensor([1.0, bad, bad]), "fine": B}
    (torch.save if suffix == "pt" else save_file)(tensors, tmp_path / f"a.{suffix}")
    source = open_checkpoint(tmp_path / f"a.{suffix}")
    with pytest.raises(CheckpointError, match="'a': 2 of 3 values are NaN or infinite"):
        source.read("a")
    source.read("fine")
    with pytest.raises(CheckpointError, match="no tensor 'b'"):
        source.read("b")


@pytest.mark.parametrize("name", [b"[" * 400_000, b"a." * 200_000, b"x" * 400_000])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_name_without_end_is_refused_at_once(tmp_path: Path, name: bytes, zipped: bool) -> None:
    """PyTorch searched its own message in the square of its length: minutes."""
    path = tmp_path / "m.pt"
    torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    known = b"ctorch._utils\n_rebuild_tensor_v2\n"
    assert known in content
    if zipped:
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "n.pt", "w") as new:
            for member in old.namelist():
                new.writestr(member, old.read(member).replace(known, b"c" + name + b"\nx\n"))
    else:
        (tmp_path / "n.pt").write_bytes(content.replace(known, b"c" + name + b"\nx\n"))
    with pytest.raises(CheckpointError) as caught, limited(seconds=20):
        open_checkpoint(tmp_path / "n.pt")
    assert len(caught.value.line()) < 2000
