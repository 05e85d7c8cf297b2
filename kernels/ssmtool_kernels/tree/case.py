"""Scans over trees for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssmtool_kernels.case import Case, Cost, Inputs, Shape
from ssmtool_kernels.selective_scan import selective_scan
from ssmtool_kernels.ssd import ssd
from ssmtool_kernels.tree import (
    Tree,
    replay_diagonal,
    replay_selective,
    replay_ssd,
    tree_diagonal_scan,
    tree_selective_scan,
    tree_ssd,
)


def _irregular(size: int) -> Tree:
    """Several roots, chains and forks, the same every time."""
    return Tree.of([(7 * node + 3) % (node + 1) - 1 for node in range(size)])


TREES = {size: _irregular(size) for size in (0, 1, 13, 16, 17)}


def _tree(size: int) -> Tree:
    return TREES[size] if size in TREES else _irregular(size)


def _normal(generator: torch.Generator, *sizes: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(sizes, dtype=dtype, generator=generator)


def _node(shape: Shape) -> Tensor | None:
    """A different accepted node in every batch element, none in the last."""
    size = shape["T"]
    return (torch.arange(shape["B"], 0, -1) - 1) * size // shape["B"] - 1 if shape.get("replay") else None


def _selective_inputs(shape: Shape, generator: torch.Generator) -> Inputs:
    b, size, channels, groups, n = (shape[letter] for letter in "BTEGN")
    return {
        "x": _normal(generator, b, size, channels),
        "dt": _normal(generator, b, size, channels).abs(),
        "A": -_normal(generator, channels, n).exp(),
        "B": _normal(generator, b, size, groups, n),
        "C": _normal(generator, b, size, groups, n),
        "D": _normal(generator, channels) if shape.get("skip") else None,
        "h0": _normal(generator, b, channels, n) if shape.get("state") else None,
        "node": _node(shape),
    }


def _ssd_inputs(shape: Shape, generator: torch.Generator) -> Inputs:
    b, size, heads, width, groups, n = (shape[letter] for letter in "BTHPGN")
    return {
        "x": _normal(generator, b, size, heads, width),
        "dt": _normal(generator, b, size, heads).abs(),
        "A": -_normal(generator, heads).exp(),
        "B": _normal(generator, b, size, groups, n),
        "C": _normal(generator, b, size, groups, n),
        "D": _normal(generator, heads, 1) if shape.get("skip") else None,
        "h0": _normal(generator, b, heads, width, n) if shape.get("state") else None,
        "node": _node(shape),
    }


def _diagonal_inputs(shape: Shape, generator: torch.Generator) -> Inputs:
    b, size, systems, n, inputs, outputs = (shape[letter] for letter in "BTSNMP")
    lam = _normal(generator, systems, n, dtype=torch.complex128)
    return {
        "lam": lam / lam.abs().clamp_min(1e-6) * torch.rand((systems, n), dtype=torch.float64, generator=generator),
        "B": _normal(generator, systems, n, inputs, dtype=torch.complex128),
        "C": _normal(generator, systems, outputs, n, dtype=torch.complex128),
        "D": _normal(generator, systems, outputs, inputs),
        "u": _normal(generator, b, systems, size, inputs),
        "x0": _normal(generator, b, systems, n, dtype=torch.complex128) if shape.get("state") else None,
        "node": _node(shape),
    }


def _runner(scan: Callable[..., Tensor], replay: Callable[..., Tensor]) -> Callable[[Inputs, str], tuple[Tensor, ...]]:
    """The scan, and the replay where nodes are given."""

    def run(inputs: Inputs, backend: str) -> tuple[Tensor, ...]:
        given = {name: tensor for name, tensor in inputs.items() if name != "node"}
        along = given["u"] if "u" in given else given["x"]
        assert along is not None
        tree = _tree(along.shape[2] if "u" in given else along.shape[1])
        y = scan(**given, tree=tree, backend=backend)
        if inputs["node"] is None:
            return (y,)
        for name in ("C", "D"):
            del given[name]
        return y, replay(**given, tree=tree, node=inputs["node"], backend=backend)

    return run


def _per_leaf(scan: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[Inputs], tuple[Tensor, ...]]:
    """A plain scan from the root to every leaf: what verification costs without a tree."""

    def run(inputs: Inputs) -> tuple[Tensor, ...]:
        x = inputs["x"]
        assert x is not None
        y, tree = torch.empty_like(x), _tree(x.shape[1])
        for leaf, below in enumerate(tree.children):
            if not below:
                path = list(tree.path(leaf))
                along = [None if inputs[name] is None else inputs[name][:, path] for name in ("x", "dt", "B", "C")]  # type: ignore[index]
                y[:, path] = scan(along[0], along[1], inputs["A"], *along[2:], inputs["D"], inputs["h0"])[0]
        return (y,)

    return run


def _ssd_cost(shape: Shape, scalar: int) -> Cost:
    b, size, heads, width, groups, n = (shape[letter] for letter in "BTHPGN")
    bytes_ = b * (heads * width * n + size * (2 * heads * width + heads + 2 * groups * n)) * scalar
    return Cost(bytes=bytes_, exp=b * heads * size**2, tensor=2 * b * heads * size * (size * (n + width) + n * width))


def _selective_cost(shape: Shape, scalar: int) -> Cost:
    b, size, channels, groups, n = (shape[letter] for letter in "BTEGN")
    states = b * channels * n
    bytes_ = (states + channels * n + b * size * (3 * channels + 2 * groups * n)) * scalar
    return Cost(bytes=bytes_, fma=4 * states * size, exp=states * size)


def _diagonal_cost(shape: Shape, scalar: int) -> Cost:
    b, size, systems, n, inputs, outputs = (shape[letter] for letter in "BTSNMP")
    bytes_ = b * systems * (2 * n + size * (inputs + outputs)) * scalar
    return Cost(bytes=bytes_, fma=b * systems * size * n * (4 + 2 * inputs + 2 * outputs))


CASES = {
    "tree_ssd": Case(
        shape={"B": 1, "T": 16, "H": 128, "P": 64, "G": 1, "N": 128, "skip": 1, "state": 1, "replay": 0},
        small=(
            {"B": 2, "T": 13, "H": 4, "P": 3, "G": 2, "N": 5, "replay": 1},
            {"B": 1, "T": 17, "H": 2, "P": 33, "G": 1, "N": 33, "skip": 0, "state": 0, "replay": 1},
            {"B": 2, "T": 1, "H": 1, "P": 1, "G": 1, "N": 1},
            {"B": 2, "T": 0, "H": 2, "P": 2, "G": 1, "N": 2, "replay": 1},
        ),
        inputs=_ssd_inputs,
        run=_runner(tree_ssd, replay_ssd),
        cost=_ssd_cost,
        peers={"a scan per leaf": _per_leaf(ssd)},
    ),
    "tree_selective_scan": Case(
        shape={"B": 1, "T": 16, "E": 4096, "G": 1, "N": 16, "skip": 1, "state": 1, "replay": 0},
        small=(
            {"B": 2, "T": 13, "E": 6, "G": 2, "N": 5, "replay": 1},
            {"B": 1, "T": 17, "E": 35, "G": 1, "N": 3, "skip": 0, "state": 0, "replay": 1},
            {"B": 2, "T": 1, "E": 1, "G": 1, "N": 1},
            {"B": 2, "T": 0, "E": 2, "G": 1, "N": 2, "replay": 1},
        ),
        inputs=_selective_inputs,
        run=_runner(tree_selective_scan, replay_selective),
        cost=_selective_cost,
        peers={"a scan per leaf": _per_leaf(selective_scan)},
    ),
    "tree_diagonal_scan": Case(
        shape={"B": 1, "T": 16, "S": 1024, "N": 32, "M": 1, "P": 1, "state": 1, "replay": 0},
        small=(
            {"B": 2, "T": 13, "S": 3, "N": 5, "M": 1, "P": 1, "replay": 1},
            {"B": 2, "T": 17, "S": 2, "N": 19, "M": 2, "P": 3, "state": 0, "replay": 1},
            {"B": 1, "T": 13, "S": 1, "N": 4, "M": 3, "P": 5, "replay": 1},
            {"B": 2, "T": 1, "S": 1, "N": 1, "M": 1, "P": 1},
            {"B": 2, "T": 0, "S": 2, "N": 2, "M": 1, "P": 2, "replay": 1},
        ),
        inputs=_diagonal_inputs,
        run=_runner(tree_diagonal_scan, replay_diagonal),
        cost=_diagonal_cost,
    ),
}
