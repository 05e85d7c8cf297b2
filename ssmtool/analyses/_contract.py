"""What an analysis file provides. An analysis is a module, its name the name of a section; these are its types.

An analysis module defines
    SUMMARY: str      one line for --help and the docs table
    REFERENCE: str    papers the numbers come from
    start() -> an Observer

The observer is shown every layer's weights, then, if there are tokens, what every layer does with each batch of them,
and is asked for its result at the end. The result is a frozen dataclass whose fields become the section's JSON; it says
itself which tables and which panels show it, so that a new analysis is one file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ssmtool.lti.systems import System
from ssmtool.selective.forward import Trace
from ssmtool.selective.language import Runner
from ssmtool.selective.mixers import Mixer

Cell = str | int | float | None


@dataclass(frozen=True)
class Pass:
    """One mixer on one batch of tokens.

    Attributes:
        mixer: tensors of the runner's dtype.
        trace: of the whole sequence from zero state, in the order in which the scan read it.
        out: (b, L, d) what the mixer adds.
    """

    mixer: Mixer
    trace: Trace
    out: Tensor


@dataclass(frozen=True)
class Seen:
    """One layer on one batch of tokens.

    Attributes:
        layer: its name.
        tokens: (b, L).
        stream: (b, L, d) residual stream before the block.
        update: (b, L, d) what its mixers add.
        passes: by row name: the layer's own, or "name[i]" where a layer has several mixers.
    """

    layer: str
    tokens: Tensor
    stream: Tensor
    update: Tensor
    passes: Mapping[str, Pass]


@dataclass(frozen=True)
class Verdict:
    """What a number means for whoever has to decide something. `layer` is "" for the whole model."""

    layer: str
    text: str


@dataclass(frozen=True)
class Table:
    """Rows of a section as text.

    Attributes:
        columns: headings; a line break makes two lines of one.
        rows: cells; None where a number was not measured.
        note: what the columns mean.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """One series of a panel: y over x, `label` in its legend ("" for none)."""

    x: tuple[float | str, ...]
    y: tuple[float, ...]
    label: str = ""


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        kind: "line"; "point"; "bar", x being names; "step", a histogram over bin centres.
        by_layer: the curves are one per layer, coloured by place.
        y_log: logarithmic where the values span more than a decade.
        level: a horizontal line that means something, with its label.
    """

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    kind: Literal["line", "point", "bar", "step"] = "line"
    x_log: bool = False
    y_log: bool = False
    by_layer: bool = False
    level: tuple[float, str] | None = None


@dataclass(frozen=True)
class Section(ABC):
    """Base of every section's result.

    Attributes:
        verdicts: in words.
        missing: quantities that need tokens, none having been given, or that do not exist for this model, one sentence
            each.
    """

    verdicts: tuple[Verdict, ...]
    missing: tuple[str, ...]

    @abstractmethod
    def tables(self) -> tuple[Table, ...]:
        """The section as text."""

    @abstractmethod
    def panels(self) -> tuple[Panel, ...]:
        """The section as a picture; empty if there is nothing to draw."""


class Observer(ABC):
    """Collects what one section needs. Every method but `result` may be left as it is.

    What a section says of a time-invariant layer depends on this layer alone: it is computed by `row`, layer by layer,
    in any process, and kept. The annotations of `row` and `result` name the dataclasses that an entry is read back as.

    Attributes:
        rows: of the time-invariant layers that were shown, in order.
    """

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def row(self, name: str, system: System) -> Any:
        """What there is to say of a time-invariant layer: a frozen dataclass with a field `name`; None for nothing."""
        return None

    def linear(self, name: str, system: System) -> None:
        """Weights of a time-invariant layer."""
        row = self.row(name, system)
        if row is not None:
            self.rows.append(row)

    def selective(self, name: str, mixer: Mixer) -> None:
        """Weights of one mixer, float64 numpy arrays; `name` is its row name."""
        return

    def see(self, seen: Seen) -> None:
        """One layer on one batch; called for all layers of a batch in order, batch after batch."""
        return

    def run(self, runner: Runner, tokens: Tensor) -> None:
        """Called once after the last batch with all tokens (sequences, L): for passes of the section's own."""
        return

    @abstractmethod
    def result(self) -> Section:
        """The section."""


NEEDS_TOKENS = "needs tokens: --tokens FILE, --text FILE or --self N"
