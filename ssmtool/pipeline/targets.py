"""From what a user asks for to a target per layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ssmtool.errors import UsageError
from ssmtool.families._contract import Layer
from ssmtool.reductions._contract import Target


@dataclass(frozen=True)
class Asked:
    """One target for every layer, its description, and the word for a derived file name."""

    targets: tuple[Target, ...]
    description: str
    word: str


def asked(layers: Sequence[Layer], **given: float | None) -> Asked:
    """The one target that was given. Raises UsageError: none, several, or one out of range."""
    values = {kind: value for kind, value in given.items() if value is not None}
    if len(values) != 1:
        raise UsageError(
            f"{len(values)} targets given", remedy="Give exactly one of --rank, --energy, --error and --budget"
        )
    kind, value = next(iter(values.items()))
    if kind == "rank":
        for layer in layers:
            if not 1 <= value <= layer.order:
                raise UsageError(
                    f"rank {value:g} is not between 1 and the order {layer.order}",
                    where=layer.name,
                    remedy="--rank counts states of the real system: a conjugate pair counts two",
                )
        return Asked((Target("rank", int(value)),) * len(layers), f"rank {value:g}", f"rank{value:g}")
    if kind == "error" and not 0 < value < float("inf"):
        raise UsageError(f"--error {value:g} is not a positive number")
    if kind in ("energy", "budget") and not 0 < value < 1:
        raise UsageError(f"--{kind} {value:g} is not between 0 and 1")
    if kind == "budget":
        orders = [max(1, int(value * layer.order + 1e-9)) for layer in layers]
        return Asked(tuple(Target("rank", r) for r in orders), f"budget {value:g}", f"budget{value:g}")
    chosen = Target("energy" if kind == "energy" else "error", value)
    return Asked((chosen,) * len(layers), f"{kind} {value:g}", f"{kind}{value:g}")
