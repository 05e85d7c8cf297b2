"""Every reader, what it reads when all is well, and how that is damaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

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
from tests.fuzz.made import (
    Files,
    cache_folder,
    fit_twice,
    input_files,
    layers,
    models,
    number_files,
    pickles,
    reductions,
    refinements,
    runs,
    safetensors,
    sharded,
    small_training,
    task_files,
    token_files,
    tokenizer,
)


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


def read_refinement(folder: Path) -> None:
    """The file of an interrupted refinement, and a fit that goes on from it without writing."""
    from ssmtool.pipeline.resume import Resume

    resume = Resume(folder / ".out.refine", {"target": "rank 4"})
    resume.write = lambda: None  # type: ignore[method-assign]
    fit_twice(resume)


def read_run(folder: Path) -> None:
    """Settings of a run as --resume takes them, and a step from the state it left."""
    from ssmtool.training.run import _check_same_ground, _complete, compare_settings
    from ssmtool.training.run_folder import RunFolder
    from ssmtool.training.tasks._contract import open_task

    place = RunFolder(folder)
    recorded = place.record()
    task = open_task(str(recorded["settings"].get("task", "digits")), None)
    compare_settings(recorded["settings"], _complete(recorded["settings"], task)[0], str(folder))
    training = small_training()
    _check_same_ground(recorded, training, place)
    state = place.state()
    assert state is not None
    training.restore(state, where=str(folder / "state.pt"))
    if not training.finished:
        training.step()


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


def read_task(folder: Path) -> None:
    """Files of the tasks that read any."""
    from ssmtool.training.tasks._contract import open_task

    name = "scifar" if (folder / "cifar-10-batches-bin").exists() else "smnist"
    task = open_task(name, folder)
    for part in ("train", "test"):
        task.load(part)


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
    "safetensors": Target(read_checkpoint, safetensors, {".safetensors": one_of(header_damaged, bytes_damaged)}, 120),
    "index": Target(read_checkpoint, sharded, {".json": _JSON, ".safetensors": one_of(header_damaged, bytes_damaged)}),
    "pickle": Target(read_checkpoint, pickles, {".pt": one_of(bytes_damaged, pickle_damaged)}, 120),
    "pickle_inside": Target(
        read_checkpoint, lambda: pickles()[:1], {".pt": member_damaged(one_of(pickle_damaged, bytes_damaged))}, 120
    ),
    "config": Target(read_layers, models, {"config.json": _JSON}, 200),
    "layers": Target(read_layers, layers, {".safetensors": header_damaged}, 200),
    "tokens": Target(read_token_files, token_files, {"": bytes_damaged}),
    "tokenizer": Target(read_tokenizer, tokenizer, {".json": _JSON}),
    "inputs": Target(read_input_files, input_files, {".npy": bytes_damaged}),
    "numbers": Target(
        read_number_files,
        number_files,
        {".npz": one_of(bytes_damaged, member_damaged(bytes_damaged)), "": bytes_damaged},
        120,
    ),
    "refinement": Target(
        read_refinement,
        refinements,
        {".refine": one_of(member_damaged(one_of(pickle_damaged, bytes_damaged)), bytes_damaged)},
    ),
    "run": Target(
        read_run,
        runs,
        {"run.json": _JSON, "state.pt": one_of(member_damaged(one_of(pickle_damaged, bytes_damaged)), bytes_damaged)},
    ),
    "record": Target(read_reduction, reductions, {"b.safetensors": record_damaged}),
    "tasks": Target(read_task, task_files, {"": bytes_damaged}),
    "hub": Target(read_hub_name, cache_folder, {"": bytes_damaged}, 20),
    "card": Target(
        read_card,
        lambda: [{"README.md": b"# A\n\n## State reduction\n\nold\n\n```\n## no\n```\n# B\n"}],
        {".md": bytes_damaged},
        20,
    ),
}
