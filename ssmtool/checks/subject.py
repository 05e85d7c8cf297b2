"""What rules measure: one layer of an opened model. Everything is computed when first asked for, and at most once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from typing import TYPE_CHECKING, Any

from ssmtool.checks.kept import kept_rows
from ssmtool.checks.record import ReducedRow
from ssmtool.checks.rules._contract import NEEDS_TOKENS, Unmeasured
from ssmtool.checks.rules._reduction import target
from ssmtool.checks.would_reduce import would_reduce, would_reduce_selective
from ssmtool.errors import CalibrationError

if TYPE_CHECKING:
    from ssmtool.cache import Cache
    from ssmtool.families._contract import Layer
    from ssmtool.lti.hankel import Spectrum
    from ssmtool.lti.systems import System
    from ssmtool.pipeline.engines._contract import Engine
    from ssmtool.pipeline.model import Model
    from ssmtool.pipeline.steps import Step
    from ssmtool.pipeline.tokens import TokenSource
    from ssmtool.selective.spectrum import CalibratedSpectrum


class Bench:
    """An opened model and what was measured of it so far.

    Args:
        model: from `load`.
        cache: for what is expensive.
        source: where tokens are from, if there are any.
        device: where to compute.
        engine: where layers are worked on.
        step: called with (label, done, total, unit).
    """

    def __init__(
        self, model: Model, cache: Cache, source: TokenSource | None, device: str, engine: Engine, step: Step
    ) -> None:
        self.model, self.cache, self.source = model, cache, source
        self.device, self.engine, self.step = device, engine, step
        self._spectra: dict[str, Spectrum] = {}
        self._system: tuple[str, System] | None = None
        self._calibrated: dict[str, tuple[CalibratedSpectrum, ...]] | str | None = None
        self._run: tuple[Any, Any] | None = None
        self._sections: dict[str, Any] = {}
        self._reduced: dict[tuple[Any, ...], dict[str, ReducedRow]] = {}

    def prepare(self, layers: Sequence[Layer]) -> None:
        """Compute the Hankel singular values of some linear layers, several at a time."""
        if layers:
            found = self.model.hsv(
                [escape(layer.name) for layer in layers],
                device=self.device,
                progress=lambda layer, done, total: self.step(layer.name, done, total, "systems"),
                cache=self.cache,
                engine=self.engine,
            )
            self._spectra.update({entry.layer.name: entry.spectrum for entry in found})

    def spectrum(self, layer: Layer) -> Spectrum:
        """Hankel singular values of a linear layer."""
        if layer.name not in self._spectra:
            self.prepare([layer])
        return self._spectra[layer.name]

    def system(self, layer: Layer) -> System:
        """A linear layer's systems; only the last one asked for is in memory."""
        if self._system is None or self._system[0] != layer.name:
            self._system = None
            self._system = layer.name, self.model.system(layer)
        return self._system[1]

    def calibrated(self, layer: Layer) -> tuple[CalibratedSpectrum, ...]:
        """Calibrated values of a selective layer; one pass over the tokens for all of them. Raises Unmeasured."""
        if self._calibrated is None:
            from ssmtool.pipeline.selective_hsv import calibrated_hsv

            runner, tokens = self.tokens()
            try:
                found = calibrated_hsv(self.model, runner, tokens, cache=self.cache, step=self.step)
                self._calibrated = {row.layer.name: row.spectra for row in found.layers}
            except CalibrationError as error:
                self._calibrated = error.line()
        if isinstance(self._calibrated, str):
            raise Unmeasured(self._calibrated)
        return self._calibrated[layer.name]

    def section(self, name: str, layer: Layer) -> Any:
        """A section of the diagnosis: of selective layers on tokens if there are any, all of them in one pass."""
        from ssmtool.pipeline.diagnose import diagnose

        if layer.lti or self.source is None:
            return diagnose(self.model, [name], layers=[escape(layer.name)]).sections[name]
        if name not in self._sections:
            runner, tokens = self.tokens()
            selective = [other.name for other in self.model.layers if not other.lti]
            found = diagnose(
                self.model, [name], layers=list(map(escape, selective)), runner=runner, tokens=tokens, step=self.step
            )
            self._sections.update(found.sections)
        return self._sections[name]

    def reduced(self, group: Sequence[Layer], keys: Mapping[str, Any]) -> dict[str, ReducedRow]:
        """What compress would make of some linear layers together, by name; see `would_reduce`."""
        kind, value = target(keys)
        place = (tuple(layer.name for layer in group), kind, value, keys["method"])
        if place not in self._reduced:
            asked = (kind, value, keys["method"], self.device)
            self._reduced[place] = kept_rows(
                self.cache, self.model, group, asked, lambda: would_reduce(self, group, kind, value, keys["method"])
            )
        return self._reduced[place]

    def reduced_selective(self, keys: Mapping[str, Any]) -> dict[str, ReducedRow]:
        """The same of all selective layers; see `would_reduce_selective`. Raises Unmeasured."""
        place = target(keys)
        if place not in self._reduced:
            try:
                self._reduced[place] = would_reduce_selective(self, *place)
            except CalibrationError as error:
                raise Unmeasured(error.line()) from error
        return self._reduced[place]

    def tokens(self) -> tuple[Any, Any]:
        """The running model and its tokens. Raises Unmeasured without tokens."""
        if self.source is None:
            raise Unmeasured(NEEDS_TOKENS)
        if self._run is None:
            from ssmtool.pipeline.runner import open_runner
            from ssmtool.pipeline.tokens import read_tokens

            runner = open_runner(self.model, self.device)
            self._run = runner, read_tokens(self.source, self.model, runner, cache=self.cache)
        return self._run


@dataclass(frozen=True)
class Subject:
    """One layer, as a rule sees it.

    Attributes:
        layer: the layer.
        group: all layers of the entry, which compress reduces together.
        total: whether the sum over the systems is asked for.
        bench: the model.
    """

    layer: Layer
    group: tuple[Layer, ...]
    total: bool
    bench: Bench

    def spectrum(self) -> Spectrum:
        """Hankel singular values; linear layers only."""
        return self.bench.spectrum(self.layer)

    def system(self) -> System:
        """The systems; linear layers only."""
        return self.bench.system(self.layer)

    def calibrated(self) -> tuple[CalibratedSpectrum, ...]:
        """Calibrated values per mixer; selective layers only."""
        return self.bench.calibrated(self.layer)

    def rows(self, section: str) -> list[Any]:
        """The layer's rows in a section of the diagnosis: one, or one per mixer."""
        name = self.layer.name
        rows = self.bench.section(section, self.layer).layers
        mixers = () if self.layer.lti else (f"{name}[{i}]" for i in range(len(rows)))
        wanted = {name, *mixers}
        return [row for row in rows if row.name in wanted]

    def reduced(self, keys: Mapping[str, Any]) -> ReducedRow:
        """What compress would make of the layer. Raises Unmeasured."""
        states = self.layer.order if self.layer.lti else self.layer.slots
        if keys["rank"] is not None and keys["rank"] > states:
            raise Unmeasured(f"has {states} states, fewer than rank {keys['rank']}")
        if not self.layer.lti:
            if not self.layer.options.get("exportable", True):
                raise Unmeasured("its surroundings are not a causal sequence model: it cannot be reduced")
            return self.bench.reduced_selective(keys)[self.layer.name]
        linear = [layer for layer in self.group if layer.lti and (keys["rank"] or 0) <= layer.order]
        return self.bench.reduced(linear, keys)[self.layer.name]
