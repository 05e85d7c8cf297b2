"""Work that goes wrong in one of many ways, for engines that send it to other processes."""

from __future__ import annotations

import os
import signal
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssmtool.cache import digest
from ssmtool.errors import ReductionError


class Unsendable(Exception):
    """Cannot be made again from what pickling keeps of it."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


@dataclass(frozen=True)
class OddWork:
    """A `Work` whose result is its number.

    Attributes:
        kind: what it does: "plain", "warn", "die once", "die", "refuse", "refuse late" (after another refused),
            "break", "sleep".
        number: of the task.
        folder: where such works leave notes for each other.
    """

    kind: str
    number: int
    folder: str

    def key(self, content: str) -> str:
        return digest("odd", 1, self.kind, self.number)

    def compute(self, model, layer, step):
        note = Path(self.folder) / "note"
        if self.kind == "warn":
            warnings.warn("mind the step", UserWarning, stacklevel=1)
        if self.kind == "die" or (self.kind == "die once" and not note.exists()):
            note.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "refuse late":
            while not note.exists():
                time.sleep(0.01)
            time.sleep(0.2)
        if self.kind.startswith("refuse"):
            note.write_text("")
            raise ReductionError(f"number {self.number} refuses", where=layer.name, remedy="Ask another")
        if self.kind == "break":
            raise Unsendable("quite", "broken")
        if self.kind == "sleep":
            note.with_name(f"asleep {os.getpid()}").write_text("")
            time.sleep(600)
        if step is not None:
            step(layer.systems, layer.systems)
        return {"number": np.array(self.number), "process": np.array(os.getpid())}

    def result(self, layer, arrays):
        return int(arrays["number"])
