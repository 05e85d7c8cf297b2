"""Plug-ins are files: a module's name inside a plug-in package is the plug-in's name."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType


def names(package: str) -> tuple[str, ...]:
    """Names of the plug-ins in `package` (e.g. ``"ssmtool.families"``), sorted; imports none of them.

    Modules whose name starts with an underscore are helpers, not plug-ins.
    """
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    found = {f.stem for folder in folders or () for f in Path(folder).glob("*.py") if not f.name.startswith("_")}
    return tuple(sorted(found))


def load(package: str, name: str) -> ModuleType:
    """The plug-in module `name` of `package`. Raises KeyError naming the known ones."""
    known = names(package)
    if name not in known:
        raise KeyError(f"{name!r} is not one of: {', '.join(known)}")
    return importlib.import_module(f"{package}.{name}")
