"""Frozen dataclasses of numbers, text, tuples and arrays as arrays that a cache keeps, and back.

The types of a dataclass say what may stand where. Nothing in an entry names a type, so that nobody's entry makes
another object than the one that is asked for.
"""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

TREE = "tree"
"""Name of the array with everything that is no array, as JSON."""

T = TypeVar("T")


def packed(value: Any, *, leaving: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """A dataclass as arrays.

    Args:
        value: its fields hold None, bool, int, float, str, NumPy scalars and arrays of numbers, tuples, mappings with
            keys of text, and dataclasses of those.
        leaving: fields that are left out, and given to `unpacked`.

    Raises:
        TypeError: a field that holds something else.
    """
    arrays: dict[str, np.ndarray] = {}
    tree = {f.name: _tree(getattr(value, f.name), f.name, arrays) for f in fields(value) if f.name not in leaving}
    return {TREE: np.frombuffer(json.dumps(tree).encode(), np.uint8), **arrays}


def unpacked(kind: type[T], arrays: Mapping[str, np.ndarray], **given: Any) -> T:
    """The dataclass that was packed.

    Args:
        kind: its type.
        arrays: of `packed`.
        given: the fields that were left out.

    Raises:
        KeyError, ValueError, TypeError: the arrays are not those of such a dataclass.
    """
    try:
        tree = json.loads(arrays[TREE].tobytes())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return _made(kind, tree, arrays, given)


def prefixed(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with a name before theirs, so that several results fit into one entry."""
    return {f"{name} {key}": array for key, array in arrays.items()}


def without_prefix(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those of `arrays` that were `prefixed` with this name, under their own."""
    return {key[len(name) + 1 :]: array for key, array in arrays.items() if key.startswith(f"{name} ")}


def _tree(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """The value as JSON has it; arrays go to `arrays`, their names stay."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return path
    if isinstance(value, tuple | list):
        return [_tree(item, f"{path}.{i}", arrays) for i, item in enumerate(value)]
    if is_dataclass(value):
        return {f.name: _tree(getattr(value, f.name), f"{path}.{f.name}", arrays) for f in fields(value)}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _tree(item, f"{path}.{key}", arrays) for key, item in value.items()}
    raise TypeError(f"{path} is a {type(value).__name__}, which cannot be kept")


def _made(kind: Any, tree: Any, arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> Any:
    """A dataclass with exactly its own fields."""
    hints = _hints(kind)
    if not isinstance(tree, dict) or sorted([*tree, *given]) != sorted(hints):
        raise TypeError(f"not the fields of {kind.__name__}")
    return kind(**given, **{name: _value(hints[name], tree[name], arrays) for name in tree})


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """Field -> type of a dataclass."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


def _value(hint: Any, tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """What stands in `tree` where a field has the type `hint`."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of(inside, tree, arrays)
    if hint is np.ndarray or origin is np.ndarray:
        if not isinstance(tree, str):
            raise TypeError("no array")
        return arrays[tree]
    if origin is Literal:
        if tree not in inside:
            raise ValueError(f"{tree!r} is none of {inside}")
        return tree
    if origin is tuple and isinstance(tree, list):
        kinds = [inside[0]] * len(tree) if inside[-1:] == (...,) else inside
        return tuple(_value(kind, item, arrays) for kind, item in zip(kinds, tree, strict=True))
    if origin in (dict, Mapping) and isinstance(tree, dict):
        return {key: _value(inside[1], item, arrays) for key, item in tree.items()}
    if isinstance(hint, type) and is_dataclass(hint):
        return _made(hint, tree, arrays, {})
    plain = {bool: (bool,), int: (int,), float: (float, int), str: (str,), types.NoneType: (types.NoneType,)}
    if hint not in plain or not isinstance(tree, plain[hint]) or (isinstance(tree, bool) and hint is not bool):
        raise TypeError(f"{type(tree).__name__} where {hint} belongs")
    return tree


def _one_of(kinds: tuple[Any, ...], tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The first of several types that fits."""
    for kind in kinds:
        try:
            return _value(kind, tree, arrays)
        except (KeyError, ValueError, TypeError):
            continue
    raise TypeError(f"{type(tree).__name__} is none of {kinds}")
