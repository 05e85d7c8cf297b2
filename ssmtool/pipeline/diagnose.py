"""One pass over a model's weights, and one over its tokens, feeding every section of a diagnosis."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmtool import plugins
from ssmtool.analyses._contract import Observer, Pass, Section, Seen
from ssmtool.cache import Cache
from ssmtool.errors import CalibrationError, FamilyError, UsageError
from ssmtool.families._contract import Layer
from ssmtool.pipeline.calibrate import as_tokens
from ssmtool.pipeline.engines import local
from ssmtool.pipeline.engines._contract import Engine
from ssmtool.pipeline.kept_sections import KeptSections
from ssmtool.pipeline.layerwise import layerwise
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.section_rows import ANALYSES, RowsWork, with_rows
from ssmtool.pipeline.steps import Step, no_step
from ssmtool.pipeline.tokens import Tokens, spread_rows
from ssmtool.selective.forward import forward
from ssmtool.selective.language import LanguageModel, Runner
from ssmtool.selective.mixers import Mixer, to_torch

SEQUENCES, LENGTH, BATCH = 64, 256, 8  # of the tokens given, at most; sequences at a time


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        sections: by name, in alphabetical order.
        layers: the layers that were looked at, in order of depth.
        tokens: which tokens were run; None without any.
        sequences, length: how many of them were used.
    """

    sections: Mapping[str, Section]
    layers: tuple[Layer, ...]
    tokens: Tokens | None
    sequences: int
    length: int


def diagnose(
    model: Model,
    sections: Iterable[str] | None = None,
    *,
    layers: Iterable[str] | None = None,
    runner: Runner | None = None,
    tokens: Tokens | None = None,
    cache: Cache | None = None,
    engine: Engine | None = None,
    step: Step = no_step,
) -> Diagnosis:
    """Run analyses on a model, one layer's weights in memory at a time and one batch of tokens.

    What sections say of a linear layer is kept layer by layer; of selective layers, section by section.

    Args:
        model: from `load`.
        sections: names of analyses; all by default.
        layers: names or globs; all by default.
        runner, tokens: of the same model, for what has to be measured; both or neither. At most SEQUENCES sequences at
            equal distances and their first LENGTH tokens are used.
        cache: where sections are kept, and found again; nowhere by default.
        engine: where linear layers are worked on, see `ssmtool.pipeline.engines`; here by default.
        step: called with (label, done, total, unit).

    Raises:
        UsageError: no such section or layer; tokens for layers none of which is selective.
        FamilyError: a selected layer cannot be run on tokens.
        CalibrationError: states or outputs that are not finite.
    """
    names = known(sections)
    chosen = by_depth(model.select(layers), runner)
    if (runner is None) != (tokens is None):
        raise UsageError("a runner and its tokens come together")
    selective = tuple(layer for layer in chosen if not layer.lti)
    if runner is not None and not selective:
        raise UsageError("no selected layer is selective: there is nothing that tokens could show")
    kept = KeptSections(cache if selective else None, model, chosen, runner, tokens)
    found = kept.find(names)
    missing = tuple(name for name in names if name not in found)
    if missing:
        observers = {name: plugins.load(ANALYSES, name).start() for name in missing}
        _linear(model, tuple(layer for layer in chosen if layer.lti), observers, cache, engine or local(), step)
        ready = _weights(model, selective, list(observers.values()), runner, step)
        if runner is None or tokens is None:
            found |= {name: _in_order(observer.result(), chosen) for name, observer in observers.items()}
            kept.keep(found, missing)
        else:
            ids = as_tokens(_rows(tokens), {layer: tuple(parts.values()) for layer, parts in ready.items()})
            _pass(runner, ready, ids, list(observers.values()), step)
            for done, (name, observer) in enumerate(observers.items()):
                step(name, done, len(observers), "sections")
                observer.run(runner, ids)
                found[name] = _in_order(observer.result(), chosen)
                kept.keep(found, [name])
    shape = (0, 0) if tokens is None else _rows(tokens).shape
    return Diagnosis({name: found[name] for name in names}, chosen, tokens, *shape)


def _in_order(section: Section, layers: tuple[Layer, ...]) -> Section:
    """The section with its rows in the order of these layers: observers have linear ones first."""
    place = {layer.name: i for i, layer in enumerate(layers)}
    rows = getattr(section, "layers", ())

    def key(row: Any) -> int:
        return place.get(row.name, place.get(row.name.rpartition("[")[0], len(place)))

    return replace(section, layers=tuple(sorted(rows, key=key))) if rows else section


def _rows(tokens: Tokens) -> np.ndarray:
    """The tokens that are run."""
    return spread_rows(tokens.array, SEQUENCES)[:, :LENGTH]


def known(sections: Iterable[str] | None) -> tuple[str, ...]:
    """Names of analyses, in alphabetical order. Raises UsageError for one there is not."""
    names = plugins.names(ANALYSES)
    wanted = list(sections or names)
    for name in wanted:
        if name not in names:
            raise UsageError(f"there is no section {name!r}", remedy=f"Sections: {', '.join(names)}")
    return tuple(name for name in names if name in wanted)


def by_depth(layers: tuple[Layer, ...], runner: Runner | None = None) -> tuple[Layer, ...]:
    """Layers in the order in which the runner applies them; without one, numbers in their names decide.

    Files list tensors by name, as text: layer 10 before layer 2.
    """
    place = {} if runner is None else {name: i for i, name in enumerate(runner.names)}

    def key(layer: Layer) -> tuple[int, list[tuple[int, int, str]]]:
        parts = re.split(r"(\d+)", layer.name)
        return place.get(layer.name, len(place)), [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]

    return tuple(sorted(layers, key=key))


def _linear(
    model: Model,
    layers: tuple[Layer, ...],
    observers: Mapping[str, Observer],
    cache: Cache | None,
    engine: Engine,
    step: Step,
) -> None:
    """Give the observers their rows on linear layers."""
    names = with_rows(tuple(observers))
    if not names:
        return
    work = RowsWork(names)
    found = layerwise(
        model, layers, lambda _: work, cache=cache or Cache(None), engine=engine,
        progress=lambda layer, done, total: step(layer.name, done, total, "sections"),
    )  # fmt: skip
    for rows in found:
        for name, row in rows.items():
            observers[name].rows.append(row)


def _weights(
    model: Model, layers: tuple[Layer, ...], observers: list[Observer], runner: Runner | None, step: Step
) -> dict[str, dict[str, Mixer]]:
    """Show selective layers' weights to the observers; mixers by layer and row name, ready for the runner if any."""
    kept: dict[str, dict[str, Mixer]] = {}
    for done, layer in enumerate(layers):
        step(layer.name, done, len(layers), "layers")
        parts = model.mixers(layer)
        names = [layer.name] if len(parts) == 1 else [f"{layer.name}[{i}]" for i in range(len(parts))]
        for name, mixer in zip(names, parts, strict=True):
            for observer in observers:
                observer.selective(name, mixer)
        if runner is not None:
            if any(mixer.in_x is None for mixer in parts):
                raise FamilyError("the scan's surroundings are not a sequence model: no tokens", where=layer.name)
            kept[layer.name] = dict(zip(names, _ready(layer.name, parts, runner), strict=True))
    return kept


def _ready(layer: str, mixers: tuple[Mixer, ...], runner: Runner) -> tuple[Mixer, ...]:
    """The mixers in the runner's place: its own where it has them, no second copy."""
    if isinstance(runner, LanguageModel):
        return runner.mixers[layer]
    module = getattr(runner, "module", None)  # of a model that transformers runs
    place = "cpu" if module is None else str(next(module.parameters()).device)
    return tuple(to_torch(mixer, torch.float32, place) for mixer in mixers)


@torch.no_grad()
def _pass(
    runner: Runner, mixers: Mapping[str, Mapping[str, Mixer]], ids: Tensor, observers: list[Observer], step: Step
) -> None:
    """Run all tokens and show the observers what every layer does with them."""
    # A model run by other code must stay as it is; our own need not compute the same thing twice.
    own = isinstance(runner, LanguageModel)
    batches = ids.split(BATCH)
    total = len(batches) * len(mixers)
    done = 0
    for batch in batches:

        def visit(layer: str, x: Tensor, stream: Tensor, batch: Tensor = batch) -> Tensor | None:
            nonlocal done
            if layer not in mixers:
                return None
            passes: dict[str, Pass] = {}
            for name, mixer in mixers[layer].items():
                out, _, trace = forward(mixer, x.to(mixer.out))
                passes[name] = Pass(mixer, trace, out)
            update = torch.stack([part.out for part in passes.values()]).sum(0)
            if not torch.isfinite(update).all():
                raise CalibrationError("outputs are not finite on these tokens", where=layer)
            seen = Seen(layer, batch, stream.to(update), update, passes)
            for observer in observers:
                observer.see(seen)
            step(layer, done, total, "layers × batches")
            done += 1
            return update.to(x) if own else None

        runner.logits(batch, visit)
