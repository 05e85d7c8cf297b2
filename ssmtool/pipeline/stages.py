"""Stages of a computation on tokens in the result cache: what a killed run had done, the next one finds.

A model that runs on tokens is one long computation and not many small ones: sums over sequences, then one fit after
the other. Each stage is kept under the hash of the whole model, the tokens, the code and what was asked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np

from ssmtool.cache import Cache, digest
from ssmtool.lti.devices import device_kind
from ssmtool.pipeline.hooked import HookedModel
from ssmtool.pipeline.model import Model
from ssmtool.selective.language import LanguageModel, Runner
from ssmtool.sources import version_of

VERSION = 1
SOURCES = (
    *("ssmtool.checkpoint", "ssmtool.families", "ssmtool.lti", "ssmtool.selective", "ssmtool.pipeline"),
    *("ssmtool.runtime", "ssmtool.fitting", "ssmtool_kernels"),
)
PAUSE = 2.0  # seconds, at least, between two times that sums are kept
SHARE = 20.0  # and so many times what keeping them took

Arrays = dict[str, np.ndarray]


class Stage:
    """One entry of a cache, or none where nothing is kept."""

    def __init__(self, cache: Cache | None, key: str) -> None:
        self._cache, self._key = cache, key
        self._next = time.monotonic() + PAUSE

    def find(self) -> Arrays | None:
        """What was kept last."""
        return None if self._cache is None else self._cache.get(self._key)

    def keep(self, arrays: Callable[[], Arrays]) -> None:
        """Replace what was kept."""
        if self._cache is None:
            return
        begin = time.monotonic()
        self._cache.put(self._key, arrays())
        end = time.monotonic()
        self._next = end + max(PAUSE, SHARE * (end - begin))

    def keep_sometimes(self, arrays: Callable[[], Arrays]) -> None:
        """Replace what was kept if some time has gone by: keeping takes a twentieth of the time at most."""
        if time.monotonic() >= self._next:
            self.keep(arrays)


class Stages:
    """The stages of one model on some tokens.

    Args:
        cache: None keeps nothing.
        model: the checkpoint.
        runner: of `open_runner`. What a caller's own one computes is not known: then nothing is kept.
        data: what else every stage depends on, such as the tokens; parts of `digest`.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is not what it was when it was opened.
    """

    def __init__(self, cache: Cache | None, model: Model, runner: Runner, *data: Any) -> None:
        code = _code(runner)
        self._cache = None if code is None or cache is None or cache.folder is None else cache
        self._base: tuple[Any, ...] = ()
        if self._cache is not None:
            content = model.checkpoint.sha256()
            model.checkpoint.check_unchanged()
            config = json.dumps(model.checkpoint.config, sort_keys=True)
            kind = device_kind(str(getattr(runner, "device", "cpu")))
            self._base = (version_of(*SOURCES), code, content, config, kind, *data)

    def stage(self, name: str, *asked: Any) -> Stage:
        """One stage.

        Args:
            name: what is computed.
            asked: what it depends on beside model and data; parts of `digest`.
        """
        if self._cache is None:
            return Stage(None, "")
        return Stage(self._cache, digest(name, VERSION, *self._base, *asked))


def _code(runner: Runner) -> str | None:
    """Whose code runs the model."""
    if isinstance(runner, LanguageModel):
        return "ssmtool"
    return f"transformers {metadata.version('transformers')}" if isinstance(runner, HookedModel) else None
