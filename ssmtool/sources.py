"""Which version of the code a result was computed by."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Iterator
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
        packages: e.g. "ssmtool.lti"; everything inside counts. A module, such as "ssmtool.fitting", is one file.
    """
    sources = hashlib.sha256()
    for package in packages:
        for name, path in _files(package):
            content = path.read_bytes()
            sources.update(f"{package}/{name} {len(content)}\n".encode() + content)
    return " ".join((__version__, sources.hexdigest(), *map(_installed, _NUMERIC)))


def _files(package: str) -> Iterator[tuple[str, Path]]:
    """Source files of a package or module, by their names in it."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        yield "", Path(str(spec.origin))
    for folder in spec.submodule_search_locations or ():
        root = Path(folder)
        for path in sorted(path for path in root.rglob("*") if path.suffix in _SUFFIXES):
            yield path.relative_to(root).as_posix(), path


def _installed(library: str) -> str:
    """The version of a library, without importing it."""
    try:
        return f"{library} {metadata.version(library)}"
    except metadata.PackageNotFoundError:
        return f"{library} of unknown version"
