"""The tensors of a family as a table, from the small checkpoints that its file makes for the tests."""

from __future__ import annotations

import re
from collections.abc import Mapping

MARK = re.compile(r"^<!-- tensors(?P<sizes>(?: +[\w+()]+=\d+)*) -->$", re.MULTILINE)
DTYPES = {"float32": "F32", "float64": "F64", "complex64": "C64", "complex128": "C128", "int64": "I64"}


def expand(markdown: str, family: str) -> str:
    """Put the tables of `family` where a page says `<!-- tensors H=4 N=3 -->`; sizes name what numbers stand for."""
    return MARK.sub(lambda mark: tables(family, sizes_of(mark["sizes"])), markdown)


def sizes_of(text: str) -> dict[int, str]:
    """ "H=4 N=3" -> {4: "H", 3: "N"}. Raises ValueError if two letters stand for one number."""
    sizes: dict[int, str] = {}
    for word in text.split():
        letter, number = word.split("=")
        if int(number) in sizes:
            raise ValueError(f"{letter} and {sizes[int(number)]} are both {number}")
        sizes[int(number)] = letter
    return sizes


def tables(family: str, sizes: Mapping[int, str]) -> str:
    """A table for every set of names that the variants of the family have; variants with the same names share one."""
    found: dict[tuple[str, ...], dict[str, dict[str, tuple[str, str]]]] = {}
    for variant in _module(family).VARIANTS:
        tensors = stored(family, variant, sizes)
        found.setdefault(tuple(tensors), {})[variant] = tensors
    return "\n\n".join(_table(variants) for variants in found.values())


def stored(family: str, variant: str, sizes: Mapping[int, str]) -> dict[str, tuple[str, str]]:
    """name -> (shape, dtype) of the tensors of the first layer of a variant, sorted by name."""
    from ssmtool.checkpoint.tensors import TensorInfo

    module = _module(family)
    tensors, config = module.tiny(variant, 0)
    infos = {name: TensorInfo(array.shape, DTYPES[array.dtype.name]) for name, array in tensors.items()}
    layer = module.layers(infos, config)[0]
    names = sorted(set(layer.tensors.values()))
    return {name: (_shape(infos[name].shape, sizes), infos[name].dtype) for name in names}


def _shape(shape: tuple[int, ...], sizes: Mapping[int, str]) -> str:
    words = [sizes.get(n, str(n)) for n in shape]
    return f"({words[0]},)" if len(words) == 1 else f"({', '.join(words)})"


def _table(variants: Mapping[str, Mapping[str, tuple[str, str]]]) -> str:
    names = list(next(iter(variants.values())))
    parents = [re.sub(r"[^./]*$", "", name) for name in names]
    prefix = min((p for p in parents if all(name.startswith(p) for name in names)), key=len, default="")
    rows = []
    for name in names:
        shapes = dict.fromkeys(tensors[name][0] for tensors in variants.values())
        dtypes = dict.fromkeys(tensors[name][1] for tensors in variants.values())
        rows.append(f"| `{name[len(prefix) :]}` | {' or '.join(shapes)} | {' or '.join(dtypes)} |")
    heading = f"{', '.join(f'`{variant}`' for variant in variants)}, below `{prefix}`:"
    return "\n".join([heading, "", "| tensor | shape | dtype |", "|---|---|---|", *rows])


def _module(family: str):
    from ssmtool import plugins

    return plugins.load("ssmtool.families", family)
