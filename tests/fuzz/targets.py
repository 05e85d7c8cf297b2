"""Every reader, what it reads when all is well, and how that is damaged."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import save

from tests.fuzz.damage import (
    Damage,
    Edit,
    big,
    bytes_damaged,
    edits,
    header_damaged,
    json_damaged,
    member_damaged,
    one_of,
    pickle_damaged,
    record_damaged,
)

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        call: reads what is in a folder.
        files: what is in the folder, by name; several makings of it to choose from.
        damage: the files that are damaged, by ending, the first that fits, and how; None for files that are not.
        examples: tried in the ordinary suite.
    """

    call: Callable[[Path], Any]
    files: Callable[[], Sequence[Files]]
    damage: Mapping[str, Damage | None]
    examples: int = 60


Case = tuple[int, int, list[Edit]]
"""(which making, which of its files, what is done to it)"""

cases: st.SearchStrategy[Case] = st.tuples(big, big, edits)


def write_case(target: Target, case: Case, folder: Path) -> None:
    """Write the files of a target, one of them damaged. None is damaged where there are no edits."""
    making, which, changes = case
    makings = target.files()
    files = dict(makings[making % len(makings)])
    names = [name for name in files if _way(target, name) is not None]
    name = names[which % len(names)]
    way = _way(target, name)
    if changes and way is not None:
        files[name] = way(files[name], changes)
    for relative, content in files.items():
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        (folder / relative).write_bytes(content)


def _way(target: Target, name: str) -> Damage | None:
    return next((way for ending, way in target.damage.items() if name.endswith(ending)), None)


# What is read.


def _tensors() -> dict[str, torch.Tensor]:
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
def _safetensors() -> list[Files]:
    return [{"m.safetensors": save(_tensors(), {"format": "pt", "note": "ours"})}]


@cache
def _sharded() -> list[Files]:
    tensors, names = _tensors(), {True: "model-00001-of-00002.safetensors", False: "model-00002-of-00002.safetensors"}
    home = {name: names[name.startswith("layers")] for name in tensors}
    shards = {
        shard: save({n: t for n, t in tensors.items() if home[n] == shard}, {"format": "pt"})
        for shard in names.values()
    }
    index = {"metadata": {"total_size": 400, "total_parameters": 80}, "weight_map": home}
    config = b'{"model_type": "toy", "n": 8}'
    return [{"model.safetensors.index.json": json.dumps(index).encode(), "config.json": config, **shards}]


@cache
def _pickles() -> list[Files]:
    tensors = _tensors()
    optimizer = {"state": {0: {"exp_avg": torch.ones(5)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    document = {"state_dict": tensors, "optimizer": optimizer, "epoch": 3, "tied": tensors["layers.0.A"].T}
    made = []
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save(document, file, _use_new_zipfile_serialization=zipped)
        made.append({"m.pt": file.getvalue()})
    return made


@cache
def _models() -> list[Files]:
    """Every family's tiny checkpoint that has a config.json."""
    from ssmtool import plugins

    made = []
    for family in plugins.names("ssmtool.families"):
        module = plugins.load("ssmtool.families", family)
        for variant in module.VARIANTS:
            arrays, config = module.tiny(variant, 3)
            tensors = {name: torch.from_numpy(np.array(x, order="C")) for name, x in arrays.items()}
            if config is not None:
                made.append({"model.safetensors": save(tensors), "config.json": json.dumps(config).encode()})
    return made


@cache
def _layers() -> list[Files]:
    """Every family's tiny checkpoint, for damage to what its header says."""
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


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@cache
def _token_files() -> list[Files]:
    rows = np.random.default_rng(0).integers(0, 256, (3, 12))
    text = ("a longer text, with an ä and so on. " * 4).encode()
    return [
        {"tokens.npy": _npy(rows)},
        {"tokens.npy": _npy(np.asfortranarray(rows.astype(np.uint16)))},
        {"tokens.safetensors": save({"tokens": torch.from_numpy(rows)})},
        {"tokens.txt": text},
    ]


@cache
def _tokenizer() -> list[Files]:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(["[UNK]", "a", "b", "text", "##s", "so", "on", "."])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    return [{"tokenizer.json": made.to_str().encode()}]


@cache
def _input_files() -> list[Files]:
    noise = np.random.default_rng(0).standard_normal((4, 6, 2))
    return [
        {"x.npy": _npy(noise)},
        {"x.npy": _npy(noise.astype(np.float32).transpose(0, 2, 1))},
        {"x.npy": _npy(np.arange(24).reshape(4, 6))},
    ]


@cache
def _number_files() -> list[Files]:
    kernel = np.exp(-0.3 * np.arange(12.0))[None] * np.ones((2, 1))
    archive, packed = io.BytesIO(), io.BytesIO()
    np.savez(archive, kernel=kernel, other=kernel[0])
    np.savez_compressed(packed, kernel=np.zeros((40, 30)))
    rows = "\n".join("; ".join(map(repr, row)) for row in kernel.T.tolist())
    return [
        {"k.npy": _npy(kernel)},
        {"k.npz": archive.getvalue()},
        {"k.npz": packed.getvalue()},
        {"k.csv": f"# h0, h1\n{rows}\n".encode()},
        {"k.safetensors": save({"kernel": torch.from_numpy(kernel)})},
    ]


# The calls.


def read_checkpoint(folder: Path) -> None:
    """Open what is there and read every tensor; one that is refused hides no other."""
    from ssmtool.checkpoint import open_checkpoint
    from ssmtool.errors import SsmtoolError

    found = [path for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".pt")]
    source = open_checkpoint(folder if len(found) != 1 else found[0])
    refused = None
    for name, info in source.tensors.items():
        try:
            assert source.read(name).shape == info.shape
        except SsmtoolError as error:
            refused = error
    source.sha256()
    if refused is not None:
        raise refused


def read_layers(folder: Path) -> None:
    """Find the layers and make canonical systems of them; those without get their static values."""
    from ssmtool.pipeline.model import load
    from ssmtool.pipeline.runner import stack_of
    from ssmtool.report.text.inspect import inspect_text

    model = load(folder)
    text = inspect_text(model, terminal=False)
    assert text.replace("\n", "").isprintable()
    for layer in model.layers:
        model.system(layer) if layer.lti else model.mixers(layer)
    if not all(layer.lti for layer in model.layers):
        stack_of(model)


@cache
def _language_model() -> Any:
    from ssmtool.checkpoint import open_checkpoint  # noqa: F401 - what the readers import is imported before the watch

    class Stub:
        vocabulary = 256

    return Stub()


class _Folder:
    """As much of a model as reading tokens looks at."""

    def __init__(self, folder: Path) -> None:
        self.layers = ()
        self.checkpoint = type("Opened", (), {"path": folder, "kind": "directory", "config": {}})()


def read_token_files(folder: Path) -> None:
    """Tokens as every option that takes any reads them."""
    from ssmtool.pipeline.tokens import TokenSource, read_tokens

    (path,) = folder.glob("tokens.*")
    text = path.suffix == ".txt"
    source = TokenSource(text=path, as_bytes=True, length=16) if text else TokenSource(file=path)
    found = read_tokens(source, _Folder(folder), _language_model())  # type: ignore[arg-type]
    assert found.array.min() >= 0
    assert found.array.max() < 256


def read_tokenizer(folder: Path) -> None:
    """A tokenizer beside a model, and a text through it and back."""
    from ssmtool.pipeline.speculative.prompts import decoded, encoded

    model: Any = _Folder(folder)
    decoded(encoded("some texts so on.", model, 300)[0].tolist(), model, 300)


def read_input_files(folder: Path) -> None:
    """Calibration inputs, labels, and inputs of a validation: three readers of .npy files, each on every file."""
    from ssmtool.errors import SsmtoolError
    from ssmtool.pipeline import inputs, signals

    refused = []
    for read in (inputs.read_inputs, inputs.read_labels, signals.read_inputs):
        try:
            read(folder / "x.npy")
        except SsmtoolError as error:
            refused.append(error)
    if len(refused) == 3:
        raise refused[0]


def read_number_files(folder: Path) -> None:
    """Impulse responses and recorded signals, and how they are taken apart."""
    from ssmtool.pipeline.lags import lags_of
    from ssmtool.pipeline.numbers import read_numbers

    (path,) = folder.glob("k.*")
    for row in lags_of(read_numbers(path, ["k*"] if path.suffix == ".npz" else None), None):
        assert np.isfinite(row.h).all()


@cache
def _refinements() -> list[Files]:
    """What a refinement leaves: the state of a fit of two tensors, half way."""
    import tempfile

    from ssmtool.pipeline.resume import Resume

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, ".out.refine")
        with contextlib.suppress(_Stop):
            _fit(Resume(path, {"target": "rank 4"}), stop_after=4)
        return [{".out.refine": path.read_bytes()}]


class _Stop(Exception):
    pass


def _fit(resume: Any, stop_after: int | None = None) -> Any:
    from ssmtool.fitting import Schedule, fit

    leaves = [torch.ones(3, requires_grad=True), torch.ones(2, 2, requires_grad=True)]

    def stopping(done: int, total: int) -> None:
        if stop_after is not None and done > stop_after:
            raise _Stop

    return fit(
        [(leaf, 1.0) for leaf in leaves],
        lambda chosen: sum(leaf.square().sum() for leaf in leaves) + 0.0 * chosen.sum(),  # type: ignore[return-value]
        lambda: sum(leaf.square().sum().item() for leaf in leaves),
        torch.arange(4),
        Schedule(6, 2, 0.1, looks=3),
        progress=stopping,
        memory=resume.memory("layers.0"),
    )


def read_refinement(folder: Path) -> None:
    """The file of an interrupted refinement, and a fit that goes on from it without writing."""
    from ssmtool.pipeline.resume import Resume

    resume = Resume(folder / ".out.refine", {"target": "rank 4"})
    resume.write = lambda: None  # type: ignore[method-assign]
    _fit(resume)


SETTINGS = {"task": "digits", "model": "s4d", "width": 4, "depth": 1, "slots": 2, "epochs": 1, "batch": 256}


@cache
def _training() -> Any:
    from ssmtool.training.loop import Training
    from ssmtool.training.recipe import recipe_for
    from ssmtool.training.tasks._contract import open_task

    task = open_task("digits", None)
    changes = {name: value for name, value in SETTINGS.items() if name not in ("task", "model")}
    return Training(recipe_for("s4d", task, **changes), 0, task=task)


@cache
def _runs() -> list[Files]:
    """The folder of a training run that was killed after its first step."""
    import tempfile

    from ssmtool.training.run import run_training

    def stop(*_: object) -> None:
        raise _Stop

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "run")
        with contextlib.suppress(_Stop):
            run_training(folder, SETTINGS, progress=stop)
        training = _training()
        training.step()
        file = io.BytesIO()
        torch.save(training.state(), file)
        return [{"run.json": (folder / "run.json").read_bytes(), "state.pt": file.getvalue()}]


def read_run(folder: Path) -> None:
    """Settings of a run as --resume takes them, and a step from the state it left."""
    from ssmtool.training.run import _check_same_ground, _complete, compare_settings
    from ssmtool.training.run_folder import RunFolder
    from ssmtool.training.tasks._contract import open_task

    place = RunFolder(folder)
    recorded = place.record()
    task = open_task(str(recorded["settings"].get("task", "digits")), None)
    compare_settings(recorded["settings"], _complete(recorded["settings"], task)[0], str(folder))
    training = _training()
    _check_same_ground(recorded, training, place)
    state = place.state()
    assert state is not None
    training.restore(state, where=str(folder / "state.pt"))
    if not training.finished:
        training.step()


@cache
def _reductions() -> list[Files]:
    """A checkpoint and its reduction, whose metadata says what was done."""
    import tempfile

    from ssmtool.pipeline.compress import compress
    from ssmtool.pipeline.model import load

    made = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (files,) = [files for files in _layers() if b"s4_layers.0.kernel.C" in files["model.safetensors"]][:1]
        (folder / "a.safetensors").write_bytes(files["model.safetensors"])
        compress(load(folder / "a.safetensors"), folder / "b.safetensors", rank=2, device="cpu")
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    return made


def read_reduction(folder: Path) -> None:
    """What a reduction says of itself, as `validate` reads it."""
    from ssmtool.pipeline.model import load
    from ssmtool.pipeline.pairing import check_rest, partners, recorded_bounds
    from ssmtool.pipeline.selective_validate import recorded_prediction

    one, two = load(folder / "a.safetensors"), load(folder / "b.safetensors")
    partners(one, two, one.layers)
    for bounds in recorded_bounds(one, two).values():
        assert bounds.dtype == np.float64
    recorded_prediction(one, two)
    check_rest(one, two, recorded=True)


@cache
def _task_files() -> list[Files]:
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


def read_task(folder: Path) -> None:
    """Files of the tasks that read any."""
    from ssmtool.training.tasks._contract import open_task

    name = "scifar" if (folder / "cifar-10-batches-bin").exists() else "smnist"
    task = open_task(name, folder)
    for part in ("train", "test"):
        task.load(part)


@cache
def _cache_folder() -> list[Files]:
    return [
        {
            "models--org--name/refs/main": b"abc123\n",
            "models--org--name/snapshots/abc123/model.safetensors": _safetensors()[0]["m.safetensors"],
            "models--org--name/snapshots/abc123/config.json": b'{"a": 1}',
        }
    ]


def read_hub_name(folder: Path) -> None:
    """A model by its name in a hub cache."""
    import os

    from ssmtool.checkpoint import open_checkpoint

    before = os.environ.get("HF_HUB_CACHE")
    os.environ["HF_HUB_CACHE"] = str(folder)
    try:
        open_checkpoint("org/name")
    finally:
        os.environ.pop("HF_HUB_CACHE") if before is None else os.environ.update(HF_HUB_CACHE=before)


def read_card(folder: Path) -> None:
    """A README.md with a section put in."""
    from ssmtool.checkpoint.card import with_section

    text = (folder / "README.md").read_bytes().decode("utf-8", "surrogateescape")
    section = "## State reduction\n\nsome lines\n"
    new = with_section(text, section)
    assert "some lines" in new


_JSON = one_of(json_damaged, bytes_damaged, json_damaged)
_NUMPY = {".npy": bytes_damaged}

TARGETS: dict[str, Target] = {
    "safetensors": Target(read_checkpoint, _safetensors, {".safetensors": one_of(header_damaged, bytes_damaged)}, 120),
    "index": Target(read_checkpoint, _sharded, {".json": _JSON, ".safetensors": one_of(header_damaged, bytes_damaged)}),
    "pickle": Target(read_checkpoint, _pickles, {".pt": one_of(bytes_damaged, pickle_damaged)}, 120),
    "pickle_inside": Target(
        read_checkpoint, lambda: _pickles()[:1], {".pt": member_damaged(one_of(pickle_damaged, bytes_damaged))}, 120
    ),
    "config": Target(read_layers, _models, {"config.json": _JSON}, 200),
    "layers": Target(read_layers, _layers, {".safetensors": header_damaged}, 200),
    "tokens": Target(read_token_files, _token_files, {"": bytes_damaged}),
    "tokenizer": Target(read_tokenizer, _tokenizer, {".json": _JSON}),
    "inputs": Target(read_input_files, _input_files, {".npy": bytes_damaged}),
    "numbers": Target(
        read_number_files,
        _number_files,
        {".npz": one_of(bytes_damaged, member_damaged(bytes_damaged)), "": bytes_damaged},
        120,
    ),
    "refinement": Target(
        read_refinement,
        _refinements,
        {".refine": one_of(member_damaged(one_of(pickle_damaged, bytes_damaged)), bytes_damaged)},
    ),
    "run": Target(
        read_run,
        _runs,
        {"run.json": _JSON, "state.pt": one_of(member_damaged(one_of(pickle_damaged, bytes_damaged)), bytes_damaged)},
    ),
    "record": Target(read_reduction, _reductions, {"b.safetensors": record_damaged}),
    "tasks": Target(read_task, _task_files, {"": bytes_damaged}),
    "hub": Target(read_hub_name, _cache_folder, {"": bytes_damaged}, 20),
    "card": Target(
        read_card,
        lambda: [{"README.md": b"# A\n\n## State reduction\n\nold\n\n```\n## no\n```\n# B\n"}],
        {".md": bytes_damaged},
        20,
    ),
}
