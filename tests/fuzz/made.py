"""What the readers read when all is well: files of every kind, small ones, made once."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

Files = Mapping[str, bytes]
"""What is in a folder, by name."""


def plain_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(4, 8, generator=generator)
    return {
        "layers.0.A": normal,
        "layers.0.B": normal.to(torch.bfloat16),
        "layers.1.C": torch.view_as_complex(normal[:, :2].contiguous()),
        "head.empty": torch.zeros(0, 3),
        "head.scale": torch.tensor(1.5, dtype=torch.float64),
        "head.count": torch.arange(7),
    }


@cache
def safetensors() -> list[Files]:
    return [{"m.safetensors": save(plain_tensors(), {"format": "pt", "note": "ours"})}]


@cache
def sharded() -> list[Files]:
    tensors, names = (
        plain_tensors(),
        {True: "model-00001-of-00002.safetensors", False: "model-00002-of-00002.safetensors"},
    )
    home = {name: names[name.startswith("layers")] for name in tensors}
    shards = {
        shard: save({n: t for n, t in tensors.items() if home[n] == shard}, {"format": "pt"})
        for shard in names.values()
    }
    index = {"metadata": {"total_size": 400, "total_parameters": 80}, "weight_map": home}
    config = b'{"model_type": "toy", "n": 8}'
    return [{"model.safetensors.index.json": json.dumps(index).encode(), "config.json": config, **shards}]


@cache
def pickles() -> list[Files]:
    tensors = plain_tensors()
    optimizer = {"state": {0: {"exp_avg": torch.ones(5)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    document = {"state_dict": tensors, "optimizer": optimizer, "epoch": 3, "tied": tensors["layers.0.A"].T}
    made = []
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save(document, file, _use_new_zipfile_serialization=zipped)
        made.append({"m.pt": file.getvalue()})
    return made


@cache
def layers() -> list[Files]:
    """Every family's tiny checkpoint in every layout."""
    from ssmtool import plugins

    made = []
    for family in plugins.names("ssmtool.families"):
        module = plugins.load("ssmtool.families", family)
        for variant in module.VARIANTS:
            arrays, config = module.tiny(variant, 3)
            tensors = {name: torch.from_numpy(np.array(x, order="C")) for name, x in arrays.items()}
            made.append({"model.safetensors": save(tensors, {"format": "pt"})})
            if config is not None:
                made[-1]["config.json"] = json.dumps(config).encode()
    return made


def models() -> list[Files]:
    """Those among them that have a config.json."""
    return [files for files in layers() if "config.json" in files]


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@cache
def token_files() -> list[Files]:
    rows = np.random.default_rng(0).integers(0, 256, (3, 12))
    text = ("a longer text, with an ä and so on. " * 4).encode()
    return [
        {"tokens.npy": npy(rows)},
        {"tokens.npy": npy(np.asfortranarray(rows.astype(np.uint16)))},
        {"tokens.safetensors": save({"tokens": torch.from_numpy(rows)})},
        {"tokens.txt": text},
    ]


@cache
def tokenizer() -> list[Files]:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(["[UNK]", "a", "b", "text", "##s", "so", "on", "."])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    return [{"tokenizer.json": made.to_str().encode()}]


@cache
def input_files() -> list[Files]:
    noise = np.random.default_rng(0).standard_normal((4, 6, 2))
    return [
        {"x.npy": npy(noise)},
        {"x.npy": npy(noise.astype(np.float32).transpose(0, 2, 1))},
        {"x.npy": npy(np.arange(24).reshape(4, 6))},
    ]


@cache
def number_files() -> list[Files]:
    kernel = np.exp(-0.3 * np.arange(12.0))[None] * np.ones((2, 1))
    archive, packed = io.BytesIO(), io.BytesIO()
    np.savez(archive, kernel=kernel, other=kernel[0])
    np.savez_compressed(packed, kernel=np.zeros((40, 30)))
    rows = "\n".join("; ".join(map(repr, row)) for row in kernel.T.tolist())
    return [
        {"k.npy": npy(kernel)},
        {"k.npz": archive.getvalue()},
        {"k.npz": packed.getvalue()},
        {"k.csv": f"# h0, h1\n{rows}\n".encode()},
        {"k.safetensors": save({"kernel": torch.from_numpy(kernel)})},
    ]


@cache
def refinements() -> list[Files]:
    """What a refinement leaves: the state of a fit of two tensors, half way."""
    import tempfile

    from ssmtool.pipeline.resume import Resume

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, ".out.refine")
        with contextlib.suppress(Stop):
            fit_twice(Resume(path, {"target": "rank 4"}), stop_after=4)
        return [{".out.refine": path.read_bytes()}]


class Stop(Exception):
    pass


def fit_twice(resume: Any, stop_after: int | None = None) -> Any:
    from ssmtool.fitting import Schedule, fit

    leaves = [torch.ones(3, requires_grad=True), torch.ones(2, 2, requires_grad=True)]

    def stopping(done: int, total: int) -> None:
        if stop_after is not None and done > stop_after:
            raise Stop

    return fit(
        [(leaf, 1.0) for leaf in leaves],
        lambda chosen: sum(leaf.square().sum() for leaf in leaves) + 0.0 * chosen.sum(),  # type: ignore[return-value]
        lambda: sum(leaf.square().sum().item() for leaf in leaves),
        torch.arange(4),
        Schedule(6, 2, 0.1, looks=3),
        progress=stopping,
        memory=resume.memory("layers.0"),
    )


SETTINGS = {"task": "digits", "model": "s4d", "width": 4, "depth": 1, "slots": 2, "epochs": 1, "batch": 256}


@cache
def small_training() -> Any:
    from ssmtool.training.loop import Training
    from ssmtool.training.recipe import recipe_for
    from ssmtool.training.tasks._contract import open_task

    task = open_task("digits", None)
    changes = {name: value for name, value in SETTINGS.items() if name not in ("task", "model")}
    return Training(recipe_for("s4d", task, **changes), 0, task=task)


@cache
def runs() -> list[Files]:
    """The folder of a training run that was killed after its first step."""
    import tempfile

    from ssmtool.training.run import run_training

    def stop(*_: object) -> None:
        raise Stop

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "run")
        with contextlib.suppress(Stop):
            run_training(folder, SETTINGS, progress=stop)
        training = small_training()
        training.step()
        file = io.BytesIO()
        torch.save(training.state(), file)
        return [{"run.json": (folder / "run.json").read_bytes(), "state.pt": file.getvalue()}]


@cache
def reductions() -> list[Files]:
    """A checkpoint and its reduction, whose metadata says what was done."""
    import tempfile

    from ssmtool.pipeline.compress import compress
    from ssmtool.pipeline.model import load

    made = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (files,) = [files for files in layers() if b"s4_layers.0.kernel.C" in files["model.safetensors"]][:1]
        (folder / "a.safetensors").write_bytes(files["model.safetensors"])
        compress(load(folder / "a.safetensors"), folder / "b.safetensors", rank=2, device="cpu")
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    return made


@cache
def task_files() -> list[Files]:
    import gzip
    import pickle
    import struct

    rng = np.random.default_rng(0)
    mnist: dict[str, bytes] = {}
    for part, count in (("train", 20), ("t10k", 3)):
        images = struct.pack(">4I", 0x803, count, 28, 28) + rng.integers(0, 256, (count, 784), dtype=np.uint8).tobytes()
        labels = struct.pack(">2I", 0x801, count) + bytes(range(10)) * 2
        mnist[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(images, mtime=0)
        mnist[f"{part}-labels-idx1-ubyte"] = labels[: 8 + count]
    batch = {b"data": rng.integers(0, 256, (10, 3072), dtype=np.uint8), b"labels": list(range(10))}
    cifar = {f"cifar-10-batches-py/data_batch_{n}": pickle.dumps(batch, protocol=2) for n in range(1, 6)}
    cifar["cifar-10-batches-py/test_batch"] = pickle.dumps(batch, protocol=2)
    binary = b"".join(bytes([n]) + bytes(3072) for n in range(10))
    packed = {f"cifar-10-batches-bin/data_batch_{n}.bin": binary for n in range(1, 6)}
    packed["cifar-10-batches-bin/test_batch.bin"] = binary
    return [mnist, packed]


@cache
def cache_folder() -> list[Files]:
    return [
        {
            "models--org--name/refs/main": b"abc123\n",
            "models--org--name/snapshots/abc123/model.safetensors": safetensors()[0]["m.safetensors"],
            "models--org--name/snapshots/abc123/config.json": b'{"a": 1}',
        }
    ]
