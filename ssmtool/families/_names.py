"""What families share about names, shapes and config keys: groups of tensors, wrapper prefixes, options."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import isnan, nan
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError

# Prefixes that DataParallel, torch.compile, Lightning and DeepSpeed put in front of a model's own names.
COMPLEX = ("C64", "C128")
WRAPPER = re.compile(r"^(?:(?:module|_orig_mod|model|net|_forward_module)[./])+")


def groups(names: Iterable[str], anchor: str, suffixes: Iterable[str]) -> dict[str, dict[str, str]]:
    """Group tensor names by what stands before `anchor`.

    Args:
        names: all tensor names of the checkpoint.
        anchor: a suffix that every group has, e.g. ``"kernel.log_dt"``; it must start a path component.
        suffixes: the suffixes to collect (the anchor may be among them), written with the same separator.

    Returns:
        prefix (with its trailing separator, "" at the root) -> {suffix: full name} for the suffixes present;
        prefixes in the order of `names`.
    """
    known = dict.fromkeys(names)
    wanted = tuple(suffixes)
    found = {}
    for name in known:
        prefix = name[: len(name) - len(anchor)]
        if name.endswith(anchor) and (not prefix or prefix[-1] in "./"):
            found[prefix] = {s: prefix + s for s in wanted if prefix + s in known}
    return found


def layer_names(prefixes: Iterable[str]) -> dict[str, str]:
    """prefix -> layer name: no trailing separator, wrapper prefixes stripped if the names stay unique."""
    full = {p: p.rstrip("./") or "layer" for p in prefixes}
    short = {p: WRAPPER.sub("", p).rstrip("./") or full[p] for p in full}
    return short if len(set(short.values())) == len(short) else full


def dimensions(
    tensors: Mapping[str, TensorInfo],
    found: Mapping[str, str],
    layout: Mapping[str, str],
    complex_parts: Iterable[str] = (),
) -> dict[str, int]:
    """Match shapes with a layout and return the sizes of its letters.

    Args:
        found: suffix -> full tensor name; suffixes without a tensor are skipped.
        layout: suffix -> sizes separated by spaces, each a letter (one size wherever it appears) or a number,
            e.g. ``{"C": "H N 2", "log_dt": "H"}``; "" is a scalar.
        complex_parts: suffixes that may be stored as complex numbers; all others must be real.

    Raises:
        FamilyError: a tensor does not fit, naming every tensor of the layer with its shape; or a size is zero.
    """
    shapes = ", ".join(f"{found[s]} {tensors[found[s]].shape}" for s in layout if s in found)
    sizes: dict[str, int] = {}
    for suffix, text in layout.items():
        if suffix not in found:
            continue
        shape, letters = tensors[found[suffix]].shape, text.split()
        fits = len(shape) == len(letters) and all(
            size == (int(x) if x.isdigit() else sizes.setdefault(x, size))
            for size, x in zip(shape, letters, strict=True)
        )
        if not fits:
            expected = ", ".join(f"{s} ({layout[s].replace(' ', ', ')})" for s in layout if s in found)
            raise FamilyError(
                f"{found[suffix]} has shape {shape}, which does not fit the layer's other tensors: {shapes}",
                where=found[suffix],
                remedy=f"Expected {expected} with equal letters equal.",
            )
    for suffix in set(layout) & set(found) - set(complex_parts):
        if tensors[found[suffix]].dtype in COMPLEX:
            raise FamilyError(
                f"stored as complex numbers ({tensors[found[suffix]].dtype}) where this family has real ones",
                where=found[suffix],
                remedy="Store the real part, or bring the model in the neutral format",
            )
    if 0 in sizes.values():
        raise FamilyError(f"empty layer: {shapes}", where=next(iter(found.values())))
    return sizes


def complete(prefix: str, found: Mapping[str, str], needed: Iterable[str]) -> None:
    """Raises FamilyError naming the tensors of `needed` (suffixes) that the layer at `prefix` lacks."""
    missing = [prefix + s for s in needed if s not in found]
    if missing:
        raise FamilyError(f"missing tensors: {', '.join(missing)}", where=prefix.rstrip("./") or "layer")


def option(config: Mapping[str, Any] | None, *keys: str, default: Any = None) -> Any:
    """The first of `keys` present in config.json's content: at the top, else one level down in a dict."""
    config = config or {}
    nested = [v for v in config.values() if isinstance(v, Mapping)]
    for place in (config, *nested):
        for key in keys:
            if place.get(key) is not None:
                return place[key]
    return default


def number(config: Mapping[str, Any] | None, *keys: str, default: float) -> float:
    """The number under the first of `keys` that is there, not NaN. Raises FamilyError if it is none."""
    value = option(config, *keys, default=default)
    try:
        found = nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = nan
    if isnan(found):
        raise FamilyError(f"{keys[0]} is {value!r:.80}, not a number", where="config.json")
    return found


def resized(config: Mapping[str, Any] | None, keys: Iterable[str], value: int) -> dict[str, Any]:
    """A copy of `config` with every whole number under one of `keys` (at the top or one level down) set to `value`."""
    wanted = set(keys)

    def changed(place: Mapping[str, Any], deeper: bool) -> dict[str, Any]:
        copy: dict[str, Any] = {}
        for key, old in place.items():
            if key in wanted and isinstance(old, int) and not isinstance(old, bool):
                copy[key] = value
            elif deeper and isinstance(old, Mapping):
                copy[key] = changed(old, False)
            else:
                copy[key] = old
        return copy

    return changed(config or {}, True)


def to_complex(x: np.ndarray) -> np.ndarray:
    """(..., 2) real pairs (re, im) -> (...) complex128."""
    return x[..., 0] + 1j * x[..., 1]


def to_pairs(z: np.ndarray) -> np.ndarray:
    """(...) complex -> (..., 2) float64 pairs (re, im)."""
    return np.stack([np.real(z), np.imag(z)], axis=-1)
