"""Which version of the code a result was computed by."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from importlib import metadata
from pathlib import Path

from ssmtool.version import __version__

_NUMERIC = ("numpy", "scipy", "torch")
_SUFFIXES = (".py", ".c", ".h")


@functools.cache
def version_of(*packages: str) -> str:
    """A text that changes whenever the sources of these packages change, or the numeric libraries below them.

    Nothing is imported. Files are told by name and content, not by date: the same release is the same everywhere.

    Args:
        packages: e.g. "ssmtool.lti"; everything inside counts.
    """
    sources = hashlib.sha256()
    for package in packages:
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            root = Path(folder)
            for path in sorted(path for path in root.rglob("*") if path.suffix in _SUFFIXES):
                content = path.read_bytes()
                sources.update(f"{package}/{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return " ".join((__version__, sources.hexdigest(), *map(_installed, _NUMERIC)))


def _installed(library: str) -> str:
    """The version of a library, without importing it."""
    try:
        return f"{library} {metadata.version(library)}"
    except metadata.PackageNotFoundError:
        return f"{library} of unknown version"
