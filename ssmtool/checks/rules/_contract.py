"""What a rule file provides. A rule is a module, its name the rule's id; these are the types its functions speak.

A rule module defines
    SUMMARY: str            one line for docs and help: which number
    UNIT: str               of the number: "states", "steps", ...; "" for a share
    HAS_WHOLE: bool         whether a percentage of min and max is of a whole (else "50%" is 0.5 for a share, and an
                            error for what is none)
    ADDS_UP: bool           whether the numbers of layers can be summed: scope = "model"
    DEFAULT_LIMITS: dict    limits of an entry that names none
    Keys                    the keys of its table in a policy, a subclass of `RuleKeys`
    title(keys) -> str      the number in words
    basis(layer, keys)      what the number is computed from, a `Basis`
    measure(subject, keys) -> Measurement       raises Unmeasured
    recall(record, keys) -> Measurement | None  the same number from a layer's record in an earlier document

`keys` is a mapping of the fields of `Keys` that `RuleKeys` does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ssmtool.checks.limits import Kind, parse_limit

Basis = Literal["weights", "spectrum", "tokens", "reduction"]
"""The layer's tensors; its Hankel singular values; the model on tokens; a dry run of compress on all layers."""

NEEDS_TOKENS = "needs tokens: --tokens FILE, --text FILE or --self N"


class RuleKeys(BaseModel):
    """Keys that every rule has."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    severity: Literal["error", "warn", "off"] = "error"
    layers: str | list[str] = Field(default_factory=list)
    scope: Literal["layer", "model"] = "layer"
    min: float | str | None = None
    max: float | str | None = None
    max_increase: float | str | None = None
    max_decrease: float | str | None = None

    @field_validator("min", "max", "max_increase", "max_decrease")
    @classmethod
    def _limit(cls, value: float | str | None, info: Any) -> float | str | None:
        if value is not None:
            kind: Kind = info.field_name
            parse_limit(kind, value)
        return value


@dataclass(frozen=True)
class Measurement:
    """A number of a layer.

    Attributes:
        value: the number.
        whole: what percentages are of, e.g. states as stored; None where there is none.
    """

    value: float
    whole: float | None = None


class Unmeasured(Exception):
    """The number does not exist for this layer, or cannot be had; the message says why, without a full stop."""
