"""Where the weights are inside what torch.save wrote: a flat state dict, or one nested among training state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ssmtool.checkpoint.documents import clip
from ssmtool.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

WELL_KNOWN = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "params", "net", "network", "weights", "ema",
    "ema_model", "model_ema", "state_dict_ema",
)  # fmt: skip
"""Keys under which training code nests the weights, the most telling first."""

_DEPTH = 32
_VISITS = 1_000_000


def select(document: Any, *, where: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights in an unpickled document.

    A mapping under a well-known key is taken if the document itself holds no tensors (counters, i.e. 0-d tensors, do
    not count); else the document if it holds tensors; else its mapping with most tensors. A ``state_dict`` right
    inside the choice is taken in turn. Optimizer state is never taken. Mappings and lists inside the choice are
    flattened, their keys joined with ``.``.

    Args:
        document: what torch.load returned.
        where: the file, for messages.

    Returns:
        the tensors by name in stored order, and the keys that were left out.

    Raises:
        CheckpointError: no tensors in it, nested without end, or two tensors that flatten to one name.
    """
    if not isinstance(document, Mapping):
        raise CheckpointError(
            f"holds a {type(document).__name__}, not a state dict",
            where=where,
            remedy="Save model.state_dict() instead",
        )
    chosen, extras = document, []
    key = None if _has_weights(document) else _nested_key(document, where)
    for _ in range(_DEPTH):
        if key is None:
            break
        extras += [str(other) for other in chosen if other != key]
        chosen = chosen[key]
        inner = chosen.get("state_dict")  # other well-known keys may be part of the names: params.model.weight
        key = "state_dict" if isinstance(inner, Mapping) and not _has_weights(chosen) else None
    walk = _Walk(where)
    walk.container(chosen, "", 0)
    if not walk.found:
        raise CheckpointError("holds no tensors", where=where, remedy="Save model.state_dict() into it")
    return walk.found, (*extras, *walk.extras)


def _is_tensor(value: Any) -> bool:
    from torch import Tensor

    return isinstance(value, Tensor)


def _is_optimizer(key: Any, value: Any) -> bool:
    if not isinstance(value, Mapping | list | tuple):
        return False
    if any(word in str(key).lower() for word in ("optim", "sched", "scaler")):
        return True
    return isinstance(value, Mapping) and "state" in value and "param_groups" in value


def _has_weights(document: Mapping) -> bool:
    return any(_is_tensor(value) and value.ndim > 0 for value in document.values())


def _nested_key(document: Mapping, where: str) -> Any:
    """Key of the nested mapping that holds the weights, None if the document itself is the choice."""
    counts: dict[Any, int] = {}
    for key, value in document.items():
        if isinstance(value, Mapping) and not _is_optimizer(key, value):
            walk = _Walk(where)
            walk.container(value, "", 0)
            counts[key] = len(walk.found)
    for key in WELL_KNOWN:
        if counts.get(key):
            return key
    if any(_is_tensor(value) for value in document.values()) or not any(counts.values()):
        return None
    return max(counts, key=lambda key: counts[key])


class _Walk:
    """Collects tensors by their joined keys.

    Attributes:
        found: the tensors.
        extras: names of everything else; a table without tensors counts once.
    """

    def __init__(self, where: str) -> None:
        self.found: dict[str, Tensor] = {}
        self.extras: list[str] = []
        self._where = where
        self._visits = 0

    def container(self, table: Mapping | list | tuple, name: str, depth: int) -> None:
        """Visit the entries of a table."""
        if depth > _DEPTH:
            raise CheckpointError(
                f"nests more than {_DEPTH} tables", where=self._where, remedy="Save model.state_dict() instead"
            )
        for key, value in table.items() if isinstance(table, Mapping) else enumerate(table):
            path = f"{name}.{key}" if name else str(key)
            if _is_optimizer(key, value) and depth == 0:
                self.extras.append(path)
            else:
                self._entry(value, path, depth)

    def _entry(self, value: Any, path: str, depth: int) -> None:
        self._visits += 1
        if self._visits > _VISITS:  # a few tables that refer to each other can spell out any number of entries
            raise CheckpointError("holds too many nested entries", where=self._where)
        if _is_tensor(value):
            if path in self.found:
                raise CheckpointError(f"holds two tensors named {clip(path)}", where=self._where)
            self.found[path] = value
            return
        tensors, others = len(self.found), len(self.extras)
        if isinstance(value, Mapping | list | tuple):
            self.container(value, path, depth + 1)
        if len(self.found) == tensors:
            self.extras[others:] = [path]
