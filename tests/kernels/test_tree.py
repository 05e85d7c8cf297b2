"""Scans over trees: along every path the plain scan, in outputs, states, gradients and, on the CPU, bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from ssmtool_kernels import native
from ssmtool_kernels.backends import interpreting
from ssmtool_kernels.diagonal_scan import diagonal_scan
from ssmtool_kernels.selective_scan import selective_scan, selective_step
from ssmtool_kernels.ssd import ssd, ssd_step
from ssmtool_kernels.tree import (
    Tree,
    ops,
    replay_diagonal,
    replay_selective,
    replay_ssd,
    tree_diagonal_scan,
    tree_selective_scan,
    tree_ssd,
)

F64 = torch.float64
BACKENDS = ["naive", "torch", "cpu", "triton"]
TREES = {
    "one": Tree.of([-1]),
    "chain": Tree.chain(6),
    "star": Tree.of([-1, 0, 0, 0, 0]),
    "roots": Tree.of([-1, -1, -1]),
    "binary": Tree.full((2, 2, 2)),
    "mixed": Tree.of([-1, -1, 0, 1, 0, 2, 2, 5, 1]),
}


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Memory that torch.empty hands out is full of NaN: what a kernel forgets to write is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def runnable(backend: str) -> None:
    if backend == "cpu" and native.missing():
        pytest.skip(native.missing())
    if backend == "triton" and not interpreting():
        pytest.skip("Triton's interpreter is off")


class Scan:
    """One of the three scans with inputs for `size` nodes: `along` have a node axis, `fixed` do not."""

    def __init__(self, kind: str, size: int, batch: int = 2, dtype: torch.dtype = F64) -> None:
        g = torch.Generator().manual_seed(size)

        def normal(*sizes: int, kind: torch.dtype = F64) -> Tensor:
            return torch.randn(sizes, generator=g, dtype=kind)

        self.kind, self.axis = kind, 1
        if kind == "diagonal":
            pairs = torch.complex128
            lam = 0.5 * normal(3, 4, kind=pairs)
            self.fixed = {"lam": lam, "B": normal(3, 4, 2, kind=pairs), "C": normal(3, 1, 4, kind=pairs)}
            self.fixed["D"] = normal(3, 1, 2)
            self.along, self.state, self.axis = {"u": normal(batch, 3, size, 2)}, normal(batch, 3, 4, kind=pairs), 2
        else:
            heads, width, states = 6, 3, 5
            extra = (heads, width) if kind == "ssd" else (heads,)
            self.along = {
                "x": normal(batch, size, *extra),
                "dt": normal(batch, size, heads).abs(),
                "B": normal(batch, size, 2, states),
                "C": normal(batch, size, 2, states),
            }
            self.fixed = {"A": -(normal(heads) if kind == "ssd" else normal(heads, states)).exp()}
            self.fixed["D"] = normal(heads, 1) if kind == "ssd" else normal(heads)
            self.state = normal(batch, *extra, states)
        if dtype == torch.float32:
            self.fixed, self.along = ({k: self._single(v) for k, v in d.items()} for d in (self.fixed, self.along))
            self.state = self._single(self.state)

    @staticmethod
    def _single(tensor: Tensor) -> Tensor:
        return tensor.to(torch.complex64 if tensor.is_complex() else torch.float32)

    def picked(self, nodes: list[int]) -> dict[str, Tensor]:
        return {name: tensor.index_select(self.axis, torch.tensor(nodes)) for name, tensor in self.along.items()}

    def tree(self, tree: Tree, backend: str, nodes: list[int] | None = None, state: Tensor | None = None) -> Tensor:
        """Outputs; those of `nodes` alone if given."""
        scan: Callable[..., Tensor] = {
            "ssd": tree_ssd,
            "selective": tree_selective_scan,
            "diagonal": tree_diagonal_scan,
        }[self.kind]
        along = self.along if nodes is None else self.picked(nodes)
        return scan(**along, **self.fixed, **self._start(state), tree=tree, backend=backend)

    def replay(
        self, tree: Tree, node: int | Tensor, backend: str, nodes: list[int] | None = None, state: Tensor | None = None
    ) -> Tensor:
        replay = {"ssd": replay_ssd, "selective": replay_selective, "diagonal": replay_diagonal}[self.kind]
        given = {**(self.along if nodes is None else self.picked(nodes)), **self.fixed, **self._start(state)}
        del given["C"], given["D"]
        return replay(**given, tree=tree, node=node, backend=backend)  # type: ignore[operator]

    def _start(self, state: Tensor | None) -> dict[str, Tensor]:
        return {"x0" if self.kind == "diagonal" else "h0": self.state if state is None else state}

    def linear(self, nodes: list[int]) -> tuple[Tensor, Tensor]:
        """The plain scan over these nodes: outputs and last state."""
        along = self.picked(nodes)
        if self.kind == "diagonal":
            scan: Callable[..., tuple[Tensor, Tensor]] = diagonal_scan
            parts = [scan(**self.fixed, u=u, x0=x0) for u, x0 in zip(along["u"], self.state, strict=True)]
            return torch.stack([y for y, _ in parts]), torch.stack([x for _, x in parts])
        scan = ssd if self.kind == "ssd" else selective_scan
        return scan(**along, **self.fixed, h0=self.state)


def close(found: Tensor, truth: Tensor, limit: float = 1e-12) -> bool:
    scale = max(1.0, float(truth.abs().max())) if truth.numel() else 1.0
    return found.shape == truth.shape and bool(((found - truth).abs() <= limit * scale).all())


KINDS = pytest.mark.parametrize("kind", ["ssd", "selective", "diagonal"])
EVERYWHERE = pytest.mark.parametrize("backend", BACKENDS)


@KINDS
@EVERYWHERE
@pytest.mark.parametrize("name", TREES)
def test_every_path_is_the_plain_scan(kind: str, backend: str, name: str) -> None:
    runnable(backend)
    tree = TREES[name]
    scan = Scan(kind, tree.size)
    y = scan.tree(tree, backend)
    for node in range(tree.size):
        path = list(tree.path(node))
        expected, last = scan.linear(path)
        assert close(y.select(scan.axis, node), expected.select(scan.axis, -1))
        assert close(scan.replay(tree, node, backend), last)


@KINDS
@EVERYWHERE
@pytest.mark.parametrize(("dtype", "limit"), [(F64, 1e-13), (torch.float32, 1e-5)])
def test_random_trees_against_the_recurrence(kind: str, backend: str, dtype: torch.dtype, limit: float) -> None:
    """No gradients are wanted here: what runs is the kernel itself. Relative L2 error."""
    runnable(backend)
    g = torch.Generator().manual_seed(5)
    for size in (2, 11, 19) if backend == "triton" else (2, 7, 16, 17, 33, 64):
        parents = [int(torch.randint(-1, node, (), generator=g)) for node in range(size)]
        tree, node = Tree.of(parents), torch.tensor([size - 1, size // 2])
        truth, scan = Scan(kind, size), Scan(kind, size, dtype=dtype)
        pairs = [
            (scan.tree(tree, backend), truth.tree(tree, "naive")),
            (scan.replay(tree, node, backend), truth.replay(tree, node, "naive")),
        ]
        for found, expected in pairs:
            assert float((found - expected).norm()) <= limit * float(expected.norm())


@KINDS
def test_results_do_not_depend_on_the_number_of_threads(kind: str) -> None:
    runnable("cpu")
    tree = TREES["mixed"]
    scan = Scan(kind, tree.size, batch=5, dtype=torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append((scan.tree(tree, "cpu"), scan.replay(tree, 7, "cpu")))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@KINDS
@EVERYWHERE
def test_every_sequence_has_its_own_accepted_node(kind: str, backend: str) -> None:
    runnable(backend)
    tree = TREES["mixed"]
    scan = Scan(kind, tree.size, batch=4)
    nodes = torch.tensor([7, -1, 0, 3])
    found = scan.replay(tree, nodes, backend)
    for element, node in enumerate(nodes.tolist()):
        if node < 0:
            assert torch.equal(found[element], scan.state[element])
        else:
            assert close(found[element], scan.linear(list(tree.path(node)))[1][element])


def shuffled(tree: Tree) -> tuple[Tree, list[int]]:
    """The tree with its nodes in another order, and the old number of every new node."""
    old = sorted(range(tree.size), key=lambda node: (int(tree.depths[node]), -node))
    new = {node: i for i, node in enumerate(old)}
    return Tree.of([new[tree.links[node]] if tree.links[node] >= 0 else -1 for node in old]), old


@KINDS
@EVERYWHERE
def test_the_order_of_siblings_does_not_matter(kind: str, backend: str) -> None:
    runnable(backend)
    tree = TREES["mixed"]
    other, old = shuffled(tree)
    assert old != list(range(tree.size))
    scan = Scan(kind, tree.size)
    y, permuted = scan.tree(tree, backend), scan.tree(other, backend, old)
    expected = y.index_select(scan.axis, torch.tensor(old))
    assert torch.equal(permuted, expected) if backend == "cpu" else close(permuted, expected)


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_tree_and_single_steps_have_the_same_bits_on_the_cpu(kind: str, dtype: torch.dtype) -> None:
    runnable("cpu")
    tree, one = TREES["mixed"], Tree.chain(1)
    scan = Scan(kind, tree.size, dtype=dtype)
    y = scan.tree(tree, "cpu")
    for node in range(tree.size):
        state = scan.state
        for i in tree.path(node):
            out = scan.tree(one, "cpu", [i], state)
            state = scan.replay(one, 0, "cpu", [i], state)
        assert torch.equal(out.select(scan.axis, 0), y.select(scan.axis, node))
        assert torch.equal(state, scan.replay(tree, node, "cpu"))


@pytest.mark.parametrize("kind", ["ssd", "selective"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_tree_has_the_bits_of_the_decoding_step_on_the_cpu(kind: str, dtype: torch.dtype) -> None:
    """Sizes that fill blocks of rows, channels and vectors, and leave some over."""
    runnable("cpu")
    tree, g = TREES["mixed"], torch.Generator().manual_seed(2)
    extra = (4, 35) if kind == "ssd" else (134,)
    x, dt, B, C, D, h0 = (
        torch.randn(shape, generator=g, dtype=dtype)
        for shape in ((2, 9, *extra), (2, 9, extra[0]), (2, 9, 2, 33), (2, 9, 2, 33), extra, (2, *extra, 33))
    )
    dt = dt.abs()
    A = -torch.rand(extra[0] if kind == "ssd" else (*extra, 33), generator=g, dtype=dtype)
    step: Callable[..., tuple[Tensor, Tensor]] = ssd_step if kind == "ssd" else selective_step
    scan: Callable[..., Tensor] = tree_ssd if kind == "ssd" else tree_selective_scan
    replay: Callable[..., Tensor] = replay_ssd if kind == "ssd" else replay_selective
    y = scan(x, dt, A, B, C, D, h0, tree=tree, backend="cpu")
    for node in range(tree.size):
        h = h0
        for i in tree.path(node):
            out, h = step(x[:, i], dt[:, i], A, B[:, i], C[:, i], D, h, backend="cpu")
        assert torch.equal(out, y[:, node])
        assert torch.equal(h, replay(x, dt, A, B, h0, tree=tree, node=node, backend="cpu"))


@KINDS
def test_gradients_of_the_plain_form_are_those_of_the_definition(kind: str) -> None:
    tree = TREES["mixed"]
    found = []
    for backend in ("naive", "torch"):
        scan = Scan(kind, tree.size)
        leaves = [*scan.along.values(), *scan.fixed.values(), scan.state]
        for leaf in leaves:
            leaf.requires_grad_()
        y, h = scan.tree(tree, backend), scan.replay(tree, torch.tensor([7, 4]), backend)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
        loss = (weights * y).sum() + (h * h.conj()).real.sum() + h.real.sum()
        found.append(torch.autograd.grad(loss, leaves))
    for a, b in zip(*found, strict=True):
        assert close(b, a)


@pytest.mark.parametrize("kind", ["ssd", "selective"])
@pytest.mark.parametrize("strength", [50.0, 5000.0])
def test_strong_decay_gives_no_nan(kind: str, strength: float) -> None:
    """Differences between nodes that are not related would overflow: the mask comes before the exponential."""
    tree = TREES["binary"]
    scan = Scan(kind, tree.size, dtype=torch.float32)
    scan.along["dt"] = torch.ones_like(scan.along["dt"])
    scan.fixed["A"] = torch.full_like(scan.fixed["A"], -strength)
    expected = scan.tree(tree, "naive")
    for backend in BACKENDS[1:]:
        if backend == "triton" and not interpreting():
            continue
        assert close(scan.tree(tree, backend), expected, 1e-5)
    leaves = [tensor.requires_grad_() for tensor in (*scan.along.values(), *scan.fixed.values(), scan.state)]
    loss = scan.tree(tree, "torch").square().sum() + scan.replay(tree, 9, "torch").square().sum()
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(loss, leaves))


@KINDS
@EVERYWHERE
def test_a_tree_without_nodes(kind: str, backend: str) -> None:
    runnable(backend)
    scan, empty = Scan(kind, 0), Tree.of([])
    assert scan.tree(empty, backend).numel() == 0
    assert torch.equal(scan.replay(empty, -1, backend), scan.state)


@pytest.mark.parametrize("kind", ["ssd", "selective"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(kind: str, dtype: torch.dtype) -> None:
    tree = TREES["mixed"]
    scan = Scan(kind, tree.size, dtype=torch.float32)
    scan.along = {name: tensor.to(dtype) for name, tensor in scan.along.items()}
    y, h = scan.tree(tree, "auto"), scan.replay(tree, 7, "auto")
    assert y.dtype == dtype
    assert h.dtype == torch.float32  # of the state that came in
    scan.along = {name: tensor.float() for name, tensor in scan.along.items()}
    assert torch.equal(y, scan.tree(tree, "auto").to(dtype))
    assert torch.equal(h, scan.replay(tree, 7, "auto"))


@KINDS
def test_kernels_are_registered_and_compiled_in_one_graph(kind: str) -> None:
    runnable("cpu")
    tree = TREES["mixed"]
    scan = Scan(kind, tree.size)
    given = [*scan.along.values(), scan.state]

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        scan.along = dict(zip(scan.along, tensors[:-1], strict=True))
        return scan.tree(tree, "cpu", state=tensors[-1]), scan.replay(tree, 5, "cpu", state=tensors[-1])

    expected = run(*given)
    torch.compiler.reset()
    found = torch.compile(run, backend="aot_eager", fullgraph=True)(*given)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)


def test_custom_operations_keep_their_promises() -> None:
    runnable("cpu")
    tree = TREES["binary"]
    scan = Scan("ssd", tree.size)
    x, dt, B, C = scan.along.values()
    A, D = scan.fixed["A"], scan.fixed["D"].expand(6, 3).contiguous()
    arguments = (x, dt, A, B, C, D, scan.state, tree.tensors, len(tree.levels), "cpu")
    torch.library.opcheck(ops.ssd, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s: tree_ssd(**s.along, **s.fixed, tree=Tree.chain(3)), "nodes of the tree"),
        (lambda s: tree_ssd(**{**s.along, "C": s.along["C"][..., 1:]}, **s.fixed, tree=TREES["mixed"]), "C has shape"),
        (lambda s: tree_ssd(**{**s.along, "x": s.along["x"].int()}, **s.fixed, tree=TREES["mixed"]), "int32"),
        (lambda s: s.replay(TREES["mixed"], 9, "auto"), "node is 9"),
        (lambda s: s.replay(TREES["mixed"], torch.tensor([0, -2]), "auto"), "node has"),
        (lambda s: s.replay(TREES["mixed"], torch.tensor([0]), "auto"), "integers"),
    ],
)
def test_bad_inputs_are_told_in_one_line(call: Callable[[Scan], Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        call(Scan("ssd", TREES["mixed"].size))
    assert "\n" not in str(raised.value)
