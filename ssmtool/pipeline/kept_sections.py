"""Sections of a diagnosis that selective layers take part in, in the result cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ssmtool.analyses._contract import Section
from ssmtool.cache import Cache, digest
from ssmtool.families._contract import Layer
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.packing import packed, unpacked
from ssmtool.pipeline.section_rows import SOURCES, section_type
from ssmtool.pipeline.stages import Stage, Stages
from ssmtool.pipeline.tokens import Tokens
from ssmtool.selective.language import Runner
from ssmtool.sources import version_of

VERSION = 1


class KeptSections:
    """Whole sections of some layers: of weights under the content of these layers, on tokens under that of the model.

    Args:
        cache: None keeps nothing.
        model: the checkpoint.
        layers: those that are looked at, in order.
        runner, tokens: both or neither.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is not what it was when it was opened.
    """

    def __init__(
        self,
        cache: Cache | None,
        model: Model,
        layers: Sequence[Layer],
        runner: Runner | None,
        tokens: Tokens | None,
    ) -> None:
        self._cache = None if cache is None or cache.folder is None else cache
        self._stages: Stages | None = None
        self._model = model
        self._asked: tuple[object, ...] = ([layer.name for layer in layers],)
        if self._cache is None:
            return
        if runner is None or tokens is None:
            self._asked = (*self._asked, [model.content(layer) for layer in layers])
        else:
            self._stages = Stages(self._cache, model, runner, tokens.array)

    def find(self, names: Iterable[str]) -> dict[str, Section]:
        """Those that were kept, by name."""
        found: dict[str, Section] = {}
        for name in names:
            arrays = self._stage(name).find()
            try:
                if arrays is not None:
                    found[name] = unpacked(section_type(name), arrays)
            except (KeyError, ValueError, TypeError):
                continue
        return found

    def keep(self, sections: Mapping[str, Section], names: Iterable[str]) -> None:
        """Keep some of these sections. Raises CheckpointError: the checkpoint is not what it was."""
        if self._cache is None:
            return
        self._model.checkpoint.check_unchanged()
        for name in names:
            self._stage(name).keep(lambda section=sections[name]: packed(section))

    def _stage(self, name: str) -> Stage:
        asked = ("section", name, VERSION, version_of(*SOURCES), *self._asked)
        if self._stages is not None:
            return self._stages.stage(*asked)
        return Stage(self._cache, "" if self._cache is None else digest("sections", VERSION, *asked))
