"""Keys of rules about what compress would make of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from ssmtool import plugins
from ssmtool.checks.rules._contract import RuleKeys

if TYPE_CHECKING:
    from ssmtool.checks.record import Record, ReducedRow

TARGETS = ("rank", "energy", "error", "budget")


class ReductionKeys(RuleKeys):
    """Exactly one target, and a method of compress."""

    rank: int | None = Field(None, ge=1)
    energy: float | None = Field(None, gt=0, lt=1)
    error: float | None = Field(None, gt=0)
    budget: float | None = Field(None, gt=0, lt=1)
    method: str = "balanced"

    @field_validator("method")
    @classmethod
    def _known(cls, value: str) -> str:
        known = (*plugins.names("ssmtool.reductions"), "best")
        name = value.replace("-", "_")
        if name not in known:
            raise ValueError(f"there is no method {value!r}; there are: {', '.join(known)}")
        return name

    @model_validator(mode="after")
    def _one(self) -> ReductionKeys:
        given = [name for name in TARGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"{len(given)} targets given; give exactly one of {', '.join(TARGETS)}")
        return self


def target(keys: Mapping[str, Any]) -> tuple[str, float]:
    """The target that was given, and its value."""
    return next((name, keys[name]) for name in TARGETS if keys[name] is not None)


def words(keys: Mapping[str, Any]) -> str:
    """The target and, if it is not the default, the method: "rank 16, modal"."""
    name, value = target(keys)
    return f"{name} {value:g}" + ("" if keys["method"] == "balanced" else f", {keys['method']}")


def recalled(record: Record, keys: Mapping[str, Any]) -> ReducedRow | None:
    """The layer in a compress document with the same target and method."""
    name, value = target(keys)
    row = record.reduced
    return row if row is not None and (row.target, row.method) == (f"{name} {value:g}", keys["method"]) else None
