"""The folder of a training run: what was asked for, where it stands, and the checkpoint; each file replaced at once.

    run.json            settings, versions, hashes and, at the end, the accuracy on the test part
    metrics.jsonl       one line per epoch
    model.safetensors   the averaged weights of the last finished epoch
    state.pt            what a later process continues from (read with weights_only=True)

`state.pt` is the truth: the other two are written again from it, so that a process killed between two files, or while
it writes one, leaves a folder that can be continued.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ssmtool.checkpoint import TensorInfo
from ssmtool.checkpoint.documents import read_object
from ssmtool.checkpoint.files import reading, regular_size, sync, write_all, writing
from ssmtool.checkpoint.header import build_header
from ssmtool.checkpoint.pickle_file import unpickled
from ssmtool.checkpoint.scratch import hold, release
from ssmtool.errors import CheckpointError, OutputError, UsageError
from ssmtool.reference.layouts._contract import ReferenceModel

RECORD, METRICS, MODEL, STATE = "run.json", "metrics.jsonl", "model.safetensors", "state.pt"
SUFFIX = ".part"  # of a file that is being written
ANEW = "Train anew in another folder"


class RunFolder:
    """Reads and writes the files of one run.

    Args:
        path: the folder; made when something is first written.

    Raises:
        OutputError: it is a file, or a folder that holds something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._look()

    def _look(self) -> None:
        path = self.path
        if self.path.exists() and not self.path.is_dir():
            raise OutputError("is not a folder", where=str(path), remedy="Give a folder to write the run to")
        known = {RECORD, METRICS, MODEL, STATE}
        # A process killed before its first record leaves an unfinished file and nothing else.
        with reading(path):
            found = [p.name for p in path.iterdir() if not p.name.endswith(SUFFIX)] if path.is_dir() else []
        if found and RECORD not in found:
            raise OutputError(
                f"holds something else ({sorted(found)[0]})", where=str(path), remedy="Give a new or an empty folder"
            )
        if strange := sorted(set(found) - known):
            raise OutputError(
                f"holds {strange[0]} besides a training run", where=str(path), remedy="Move it out of the folder"
            )
        self.holds_run = RECORD in found

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else writes to the folder meanwhile. Raises OutputError if somebody does."""
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                handle = hold(self.path)
            except BlockingIOError:
                raise OutputError(
                    "is being written to by another training run",
                    where=str(self.path),
                    remedy="Wait for it, or write to another folder",
                ) from None
        try:
            self._look()  # another run may have begun and ended since
            yield
        finally:
            release(handle)

    def record(self) -> dict[str, Any]:
        """Settings, versions and hashes of the run. Raises CheckpointError if they cannot be read."""
        where = self.path / RECORD
        found = read_object(where, remedy=ANEW)
        tables = {name: found.get(name) for name in ("settings", "versions", "hashes")}
        if not all(isinstance(table, dict) for table in tables.values()) or "data" not in found["hashes"]:
            raise CheckpointError("is not the record of a training run", where=str(where), remedy=ANEW)
        return found

    def write_record(self, record: Mapping[str, Any]) -> None:
        self._replace(RECORD, (json.dumps(record, indent=2) + "\n").encode())
        self.holds_run = True

    def state(self) -> dict[str, Any] | None:
        """The state to continue from, None if there is none yet. Raises CheckpointError if it cannot be read."""
        where = self.path / STATE
        if not where.exists():
            return None
        regular_size(where)
        try:
            found = unpickled(where)
        except CheckpointError as error:  # a download has another remedy
            raise CheckpointError(f"cannot be read: it {error.what}", where=str(where), remedy=ANEW) from error
        if not isinstance(found, dict):
            raise CheckpointError("is not the state of a training run", where=str(where), remedy=ANEW)
        return found

    def write_state(self, state: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        self._replace(STATE, buffer.getvalue())

    def write_metrics(self, epochs: list[dict[str, Any]]) -> None:
        self._replace(METRICS, "".join(json.dumps(epoch) + "\n" for epoch in epochs).encode())

    def write_model(self, model: ReferenceModel, metadata: Mapping[str, str]) -> None:
        """The weights as float32. The same weights give the same bytes, which safetensors' own writer does not promise:
        it stores metadata in any order."""
        weights = {name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()}
        header = build_header({name: TensorInfo(array.shape, "F32") for name, array in weights.items()}, metadata)
        self._replace(MODEL, header + b"".join(array.astype("<f4").tobytes() for array in weights.values()))

    def _replace(self, name: str, content: bytes) -> None:
        """Write a file beside its place, then move it there. Raises OutputError."""
        place, part = self.path / name, self.path / (name + SUFFIX)
        with writing(place):
            self.path.mkdir(parents=True, exist_ok=True)
            with open(part, "wb", buffering=0) as file:
                write_all(file, content)
                os.fsync(file.fileno())
            os.replace(part, place)
        sync(self.path)


def compare_settings(recorded: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
    """Raises UsageError naming the first setting that differs from the recorded one."""
    for name, value in given.items():
        if name not in recorded or recorded[name] != value:
            raise UsageError(
                f"this run was started with {name} {recorded.get(name)}, not {value}",
                where=where,
                remedy="Continue it with the settings it was started with, or write to another folder",
            )
