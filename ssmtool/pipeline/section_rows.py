"""What sections of a diagnosis say of one linear layer as a piece of work that can be sent and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from ssmtool import plugins
from ssmtool.analyses._contract import Observer
from ssmtool.cache import digest
from ssmtool.families._contract import Layer
from ssmtool.pipeline.engines._contract import Arrays, Step
from ssmtool.pipeline.packing import packed, prefixed, unpacked, without_prefix
from ssmtool.sources import version_of

if TYPE_CHECKING:
    from ssmtool.pipeline.model import Model

ANALYSES = "ssmtool.analyses"
VERSION = 1
SOURCES = (
    *("ssmtool.checkpoint", "ssmtool.families", "ssmtool.lti", "ssmtool.selective", "ssmtool.analyses"),
    *("ssmtool.pipeline", "ssmtool_kernels"),
)


def with_rows(sections: tuple[str, ...]) -> tuple[str, ...]:
    """Those of some sections that have something to say of linear layers."""
    return tuple(name for name in sections if _observer(name).row is not Observer.row)


@dataclass(frozen=True)
class RowsWork:
    """A `Work` whose result is the row of every section, by name.

    Attributes:
        sections: names of analyses, of `with_rows`.
    """

    sections: tuple[str, ...]

    def key(self, content: str) -> str:
        return digest("rows", VERSION, version_of(*SOURCES), content, self.sections)

    def compute(self, model: Model, layer: Layer, step: Step | None) -> Arrays:
        system, found = model.system(layer), {}
        for done, name in enumerate(self.sections):
            row = plugins.load(ANALYSES, name).start().row(layer.name, system)
            found |= prefixed(name, packed(row, leaving=("name",)))
            if step is not None:
                step(done + 1, len(self.sections))
        return found

    def result(self, layer: Layer, arrays: Arrays) -> dict[str, Any]:
        rows = {}
        for name in self.sections:
            kind = get_type_hints(_observer(name).row)["return"]
            rows[name] = unpacked(kind, without_prefix(name, arrays), name=layer.name)
        return rows


def section_type(name: str) -> Any:
    """The dataclass that is the result of a section."""
    return get_type_hints(_observer(name).result)["return"]


def _observer(name: str) -> type[Observer]:
    return type(plugins.load(ANALYSES, name).start())
