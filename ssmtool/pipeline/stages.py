"""Stages of a computation on whole models in the result cache: what a killed run had done, the next one finds.

A model that runs on tokens is one long computation and not many small ones: sums over sequences, then one fit after
the other. Each stage is kept under the hash of the whole model, the tokens, the code and what was asked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, TypeVar

import numpy as np

from ssmtool.cache import Cache, digest
from ssmtool.lti.devices import device_kind
from ssmtool.pipeline.hooked import HookedModel
from ssmtool.pipeline.model import Model
from ssmtool.selective.language import LanguageModel, Runner
from ssmtool.sources import version_of

VERSION = 2
SOURCES = (
    *("ssmtool.checkpoint", "ssmtool.families", "ssmtool.lti", "ssmtool.selective", "ssmtool.analyses"),
    *("ssmtool.reductions", "ssmtool.reference", "ssmtool.pipeline", "ssmtool.runtime", "ssmtool.fitting"),
    "ssmtool_kernels",
)
PAUSE = 2.0  # seconds, at least, between two times that sums are kept
SHARE = 20.0  # and so many times what keeping them took

Arrays = dict[str, np.ndarray]
T = TypeVar("T")


class Stage:
    """One entry of a cache; without a cache, none."""

    def __init__(self, cache: Cache | None = None, key: str = "") -> None:
        self._cache, self._key = cache, key
        self._next = time.monotonic() + PAUSE

    def recall(self, read: Callable[[Arrays], T]) -> T | None:
        """As `Cache.recall`."""
        return None if self._cache is None else self._cache.recall(self._key, read)

    def keep(self, arrays: Callable[[], Arrays]) -> None:
        """Replace what was kept."""
        if self._cache is None:
            return
        begin = time.monotonic()
        self._cache.put(self._key, arrays())
        end = time.monotonic()
        self._next = end + max(PAUSE, SHARE * (end - begin))

    def recall_sums(self, total: int, read: Callable[[Arrays], T]) -> tuple[int, T] | None:
        """How many of `total` sequences were summed before, and what `read` makes of their sums."""

        def counted(arrays: Arrays) -> tuple[int, T]:
            done = int(arrays.pop("done").item())
            if not 0 < done <= total:
                raise ValueError("not of these sequences")
            return done, read(arrays)

        return self.recall(counted)

    def keep_sums(self, done: int, total: int, sums: Callable[[], Arrays]) -> None:
        """Replace what was kept by sums over `done` sequences: over all, or if some time has gone by.

        Keeping takes a twentieth of the time at most.
        """
        if done == total or time.monotonic() >= self._next:
            self.keep(lambda: {**sums(), "done": np.array(done)})


class Stages:
    """The stages of a computation.

    Args:
        cache: None keeps nothing.
        code: whose code runs on what kind of device, see `ran_by`; None where it is not known: then nothing is kept.
        models: the checkpoints that take part as a whole.
        data: what else every stage depends on, such as the tokens; parts of `digest`.

    Raises:
        CheckpointError: a checkpoint cannot be read, or is not what it was when it was opened.
    """

    def __init__(self, cache: Cache | None, code: tuple[str, str] | None, models: Sequence[Model], *data: Any) -> None:
        self._cache = cache if cache is not None and cache.keeps and code is not None else None
        self._base: tuple[Any, ...] = ()
        if self._cache is not None:
            self._base = (version_of(*SOURCES), code, [_identity(model) for model in models], *data)

    def stage(self, name: str, *asked: Any) -> Stage:
        """One stage.

        Args:
            name: what is computed.
            asked: what it depends on beside models and data; parts of `digest`.
        """
        return Stage() if self._cache is None else Stage(self._cache, digest(name, VERSION, *self._base, *asked))


NOWHERE = Stages(None, None, ())
"""Keeps nothing."""


def ran_by(runner: Runner) -> tuple[str, str] | None:
    """Whose code runs a model of `open_runner`, and the kind of its device; None for a caller's own runner."""
    kind = device_kind(str(getattr(runner, "device", "cpu")))
    if isinstance(runner, LanguageModel):
        return "ssmtool", kind
    return (f"transformers {metadata.version('transformers')}", kind) if isinstance(runner, HookedModel) else None


def _identity(model: Model) -> tuple[str, str]:
    """Hash of a checkpoint and its configuration."""
    content = model.checkpoint.sha256()
    model.checkpoint.check_unchanged()
    return content, json.dumps(model.checkpoint.config, sort_keys=True)
