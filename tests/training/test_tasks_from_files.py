"""Tasks read from files that users have: tiny files in the published formats, and one-line refusals."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssmtool.errors import DataError, UsageError
from ssmtool.training.tasks import _files
from ssmtool.training.tasks._contract import DATA_VARIABLE, open_task
from ssmtool.training.tasks._files import divided

RNG = np.random.RandomState(0)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


def mnist(folder: Path, packed: bool = False) -> dict[str, np.ndarray]:
    found = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", 20), ("t10k", 6)):
        images, labels = RNG.randint(0, 256, (count, 28, 28), np.uint8), RNG.randint(0, 10, count).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content, path = idx(array), folder / f"{name}-{kind}-ubyte"
            if packed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)
            found[f"{name}-{kind}"] = array
    return found


@pytest.mark.parametrize(("place", "packed"), [(".", False), ("MNIST/raw", True), ("raw", False)])
def test_mnist(tmp_path: Path, place: str, packed: bool) -> None:
    arrays = mnist(tmp_path / place, packed)
    task = open_task("smnist", tmp_path)
    inputs, labels = task.load("test")
    expected = arrays["t10k-images-idx3"].reshape(6, 784, 1) / 127.5 - 1
    np.testing.assert_allclose(inputs.numpy(), expected, atol=1e-6)
    assert labels.tolist() == arrays["t10k-labels-idx1"].tolist()
    train, validation = task.load("train")[0], task.load("validation")[0]
    assert (len(train), len(validation)) == (18, 2)
    both = torch.cat([train, validation]).flatten(1).unique(dim=0)
    whole = torch.from_numpy(arrays["train-images-idx3"].reshape(20, 784) / 127.5 - 1).float().unique(dim=0)
    torch.testing.assert_close(both, whole)


def cifar(folder: Path, form: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Writes both versions' formats; `form` is bin, py (as Python 2 wrote them) or py3."""
    (place := folder / f"cifar-10-batches-{form[:3].rstrip('3')}").mkdir()
    found = {}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        pixels, labels = RNG.randint(0, 256, (4, 3072), np.uint8), RNG.randint(0, 10, 4)
        found[name] = (pixels, labels)
        if form == "bin":
            content = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1).tobytes()
            (place / f"{name}.bin").write_bytes(content)
        else:
            batch = {b"data": pixels, b"labels": labels.tolist(), b"batch_label": b"a batch", b"filenames": [b"a.png"]}
            content = pickle.dumps(batch, protocol=2)
            if form == "py":  # NumPy has another name for its module since 2.0
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            (place / name).write_bytes(content)
    return found


@pytest.mark.parametrize("form", ["bin", "py", "py3"])
def test_cifar(tmp_path: Path, form: str) -> None:
    arrays = cifar(tmp_path, form)
    task = open_task("scifar", tmp_path)
    inputs, labels = task.load("test")
    pixels, numbers = arrays["test_batch"]
    assert (task.inputs, inputs.shape) == (3, (4, 1024, 3))
    np.testing.assert_allclose(inputs.numpy(), pixels.reshape(4, 3, 1024).transpose(0, 2, 1) / 127.5 - 1, atol=1e-6)
    assert labels.tolist() == numbers.tolist()
    assert (len(task.load("train")[1]), len(task.load("validation")[1])) == (18, 2)
    grey = open_task("scifar:colour=0", tmp_path)
    assert (grey.inputs, grey.load("test")[0].shape) == (1, (4, 1024, 1))
    expected = (pixels.reshape(4, 3, 1024) * np.array([0.299, 0.587, 0.114])[:, None]).sum(axis=1) / 127.5 - 1
    np.testing.assert_allclose(grey.load("test")[0][..., 0].numpy(), expected, atol=1e-5)


def test_a_pickle_executes_nothing(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    cifar(tmp_path, "py")
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps({b"data": Harmful()}, protocol=2))
    with pytest.raises(DataError, match=r"it names .*mkdir, which no batch of CIFAR-10 does"):
        open_task("scifar", tmp_path).load("test")
    assert not (tmp_path / "executed").exists()


def reviews(folder: Path) -> None:
    for side, count in (("train", 10), ("test", 3)):
        for kind in ("neg", "pos"):
            (place := folder / side / kind).mkdir(parents=True)
            for number in range(count):
                text = f"{side} {kind} {number} " + "ü" * number
                (place / f"{number}_{number % 10}.txt").write_text(text, encoding="utf-8")


def test_reviews(tmp_path: Path) -> None:
    reviews(tmp_path / "aclImdb")
    (tmp_path / "aclImdb/test/pos/1_1.txt").write_bytes(b"")
    task = open_task("imdb:max_length=12", tmp_path)
    inputs, labels = task.load("test")
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    texts = [bytes(row[row >= 0].tolist()) for row in inputs]
    assert texts[1] == "test neg 1 ü".encode()[:12]
    assert texts[4] == b" "
    u, lengths = task.encode(inputs)
    assert lengths is not None
    assert lengths.tolist() == [len(text) for text in texts]
    assert u.shape[-1] == 256
    assert u.sum(dim=-1).sum(dim=-1).tolist() == lengths.tolist()  # nothing is put in behind the end
    assert u[0, 0].argmax().item() == ord("t")
    parts = {part: task.load(part)[1] for part in ("train", "validation")}
    assert {part: len(labels) for part, labels in parts.items()} == {"train": 18, "validation": 2}


def test_the_split_is_fixed_and_complete() -> None:
    train, validation = divided("train", 50), divided("validation", 50)
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(50))
    # RandomState(0).permutation(50)[:5], promised by NumPy never to change
    assert validation.tolist() == [2, 10, 11, 28, 41]


@pytest.mark.parametrize("name", ["smnist", "scifar", "imdb"])
def test_without_files_one_line_says_what_is_expected_where(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    first = {"smnist": "images-idx3", "scifar": "cifar-10-batches-bin", "imdb": "aclImdb/"}[name]
    with pytest.raises(UsageError, match=f"Give --data DIR or set {DATA_VARIABLE}; expected there: .*{first}"):
        open_task(name)
    with pytest.raises(DataError, match=f"is not a folder. Task {name} expects there: .*{first}"):
        open_task(name, tmp_path / "absent")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(DataError, match=f"holds no .*. Expected there: .*{first}") as caught:
        open_task(name).load("test")
    assert "\n" not in str(caught.value)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    mnist(tmp_path)
    cifar(tmp_path, "bin")
    reviews(tmp_path)

    def refuse(task: str, words: str) -> None:
        with pytest.raises(DataError, match=words):
            open_task(task, tmp_path).load("test")

    images = tmp_path / "t10k-images-idx3-ubyte"
    whole = images.read_bytes()
    for content in (whole[:-1], whole[:3], b"\0\0\x0d" + whole[3:], idx(np.zeros((0, 28, 28), np.uint8))):
        images.write_bytes(content)
        refuse("smnist", "is not an idx file of bytes with 3 axes")
    images.write_bytes(idx(np.zeros((6, 8, 8), np.uint8)))
    refuse("smnist", "are not MNIST's")
    images.write_bytes(whole)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    refuse("smnist", "is missing")
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"\x1f\x8b not gzip")
    refuse("smnist", "cannot be read")
    batch = tmp_path / "cifar-10-batches-bin/test_batch.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    refuse("scifar", "is not made of records of 3073 bytes")
    batch.write_bytes(bytes([11]) * 3073)
    refuse("scifar", "labels that are not CIFAR-10's")
    for path in (tmp_path / "test/neg").iterdir():
        path.unlink()
    refuse("imdb", "holds no")
    with pytest.raises(UsageError, match="colour"):
        open_task("scifar:colour=2", tmp_path)


def test_a_file_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "LIMIT", 1 << 16)
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    with pytest.raises(DataError, match="unpacks to more than 65536 bytes"):
        _files.read_bytes(tmp_path / "a.gz", "files")
