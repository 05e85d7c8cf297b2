"""Numbers of a check in the result cache, under a hash of everything they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssmtool.cache import digest
from ssmtool.checks.record import ReducedRow
from ssmtool.checks.rules._contract import Measurement, Unmeasured
from ssmtool.sources import version_of

if TYPE_CHECKING:
    from ssmtool.cache import Cache
    from ssmtool.families._contract import Layer
    from ssmtool.pipeline.model import Model
    from ssmtool.pipeline.tokens import TokenSource

VERSION = 1
SOURCES = (
    *("ssmtool.checks", "ssmtool.checkpoint", "ssmtool.families", "ssmtool.lti", "ssmtool.selective"),
    *("ssmtool.analyses", "ssmtool.reductions", "ssmtool.pipeline", "ssmtool_kernels"),
)
"""Packages whose code the numbers depend on."""


def find_number(cache: Cache, key: str) -> Measurement | Unmeasured | None:
    """A number that was measured before, or the reason why there is none."""
    arrays = cache.get(key)
    if arrays is None or set(arrays) != {"number", "reason"}:
        return None
    reason = _text(arrays["reason"])
    if reason:
        return Unmeasured(reason)
    value, whole = arrays["number"].tolist()
    return Measurement(value, None if np.isnan(whole) else whole)


def keep_number(cache: Cache, key: str, found: Measurement | Unmeasured) -> None:
    """Keep a number, or the reason why there is none."""
    if isinstance(found, Unmeasured):
        number, reason = [np.nan, np.nan], str(found)
    else:
        number, reason = [found.value, np.nan if found.whole is None else found.whole], ""
    cache.put(key, {"number": np.array(number), "reason": _bytes(reason)})


def kept_rows(
    cache: Cache,
    model: Model,
    group: Sequence[Layer],
    asked: tuple[Any, ...],
    measure: Callable[[], dict[str, ReducedRow]],
) -> dict[str, ReducedRow]:
    """What compress would make of some layers, from the cache or measured; the hash is of all of them, in order."""
    contents = [model.content(layer) for layer in group]
    key = digest("check reduction", VERSION, version_of(*SOURCES), asked, contents, _layout(model))
    arrays = cache.get(key)
    if arrays is not None and "rows" in arrays:
        found = json.loads(_text(arrays["rows"]))
        if len(found) == len(group):
            return {layer.name: ReducedRow(*row) for layer, row in zip(group, found, strict=True)}
    rows = measure()
    text = json.dumps([astuple(rows[layer.name]) for layer in group])
    cache.put(key, {"rows": _bytes(text)})
    return rows


def tokens_key(model: Model, source: TokenSource) -> str:
    """Hash of the whole model and of the tokens it is run on, without running it."""
    parts = {field.name: getattr(source, field.name) for field in fields(source)}
    folder = model.checkpoint.path
    for name in ("file", "text"):
        if parts[name] is not None:
            parts[name] = _file_hash(Path(parts[name]))
    tokenizer = _file_hash(folder / "tokenizer.json") if source.text is not None and folder.is_dir() else ""
    return digest("model on tokens", VERSION, model.checkpoint.sha256(), _config(model), parts, tokenizer)


def _layout(model: Model) -> str:
    """Hash of the headers and the configuration: what a reduced layer is stored as depends on them."""
    infos = {name: (info.dtype, info.shape) for name, info in model.checkpoint.tensors.items()}
    return digest("layout", VERSION, infos, _config(model))


def _config(model: Model) -> str:
    return json.dumps(model.checkpoint.config, sort_keys=True)


def _file_hash(path: Path) -> str:
    """Of a file's content; "" for one that cannot be read, which whoever needs it will say."""
    try:
        with path.open("rb") as file:
            total = hashlib.sha256()
            while piece := file.read(1 << 20):
                total.update(piece)
    except OSError:
        return ""
    return total.hexdigest()


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)


def _text(array: np.ndarray) -> str:
    return array.tobytes().decode("utf-8")
