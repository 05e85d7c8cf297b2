"""Sections of a diagnosis that selective layers take part in, in the result cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from ssmtool.analyses._contract import Section
from ssmtool.cache import Cache
from ssmtool.families._contract import Layer
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.packing import packed, unpacked
from ssmtool.pipeline.section_rows import section_type
from ssmtool.pipeline.stages import NOWHERE, Stage, Stages, ran_by
from ssmtool.pipeline.tokens import Tokens
from ssmtool.selective.language import Runner


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
        self._checkpoint = model.checkpoint
        self._names = [layer.name for layer in layers]
        if runner is not None and tokens is not None:
            self._stages = Stages(cache, ran_by(runner), (model,), tokens.array)
        elif cache is not None and cache.keeps:
            self._stages = Stages(cache, ("ssmtool", "cpu"), (), [model.content(layer) for layer in layers])
        else:
            self._stages = NOWHERE

    def find(self, names: Iterable[str]) -> dict[str, Section]:
        """Those that were kept, by name."""
        found = {name: self._stage(name).recall(partial(unpacked, section_type(name))) for name in names}
        return {name: section for name, section in found.items() if section is not None}

    def keep(self, sections: Mapping[str, Section], names: Iterable[str]) -> None:
        """Keep some of these sections. Raises CheckpointError: the checkpoint is not what it was."""
        self._checkpoint.check_unchanged()
        for name in names:
            self._stage(name).keep(partial(packed, sections[name]))

    def _stage(self, name: str) -> Stage:
        return self._stages.stage("section", name, self._names)
