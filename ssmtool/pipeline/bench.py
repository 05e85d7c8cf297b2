"""Scans on synthetic inputs: error, time, and what a smaller state buys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch

from ssmtool.errors import UsageError
from ssmtool.lti.factors import resolve_device
from ssmtool_kernels.backends import BackendError, resolve
from ssmtool_kernels.case import Case, cases, cast
from ssmtool_kernels.measure import Timing, best, definition, timing

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
HALVINGS = 3  # of the state size that the sweep shows


@dataclass(frozen=True)
class Sweep:
    """The same operation with smaller states.

    Attributes:
        letter: whose size shrinks.
        sizes: descending, the first that of the main measurement.
        seconds: backend -> forward time per size.
    """

    letter: str
    sizes: tuple[int, ...]
    seconds: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class OperationBench:
    """One operation.

    Attributes:
        operation: its name. shape: letters and sizes, options at 1.
        timings: per backend and peer.
        sweep: None where nothing was swept.
        absent: backend that did not run -> why.
    """

    operation: str
    shape: Mapping[str, int]
    timings: tuple[Timing, ...]
    sweep: Sweep | None
    absent: Mapping[str, str]


@dataclass(frozen=True)
class Bench:
    """Result of `bench`.

    Attributes:
        device: its name. threads: of PyTorch and of the C kernels on the CPU. dtype: of the inputs.
    """

    operations: tuple[OperationBench, ...]
    device: str
    threads: int
    dtype: str


def operations() -> tuple[str, ...]:
    """Names of everything that can be measured."""
    return tuple(cases())


def bench(
    *,
    chosen: Sequence[str] | None = None,
    shape: Mapping[str, int] | None = None,
    backends: Sequence[str] | None = None,
    sweep: Sequence[int] | None = None,
    dtype: str = "float32",
    backward: bool = True,
    device: str = "auto",
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Bench:
    """Measure operations of `ssmtool_kernels` on random contractive inputs.

    Args:
        chosen: names or globs; all by default.
        shape: sizes that replace the operation's own, such as {"L": 1024}; letters an operation does not have are an
            error only if none of the chosen operations has them.
        backends: by default all that run on the device, and the operation's peers; "naive" only if named.
        sweep: sizes of the state, at most that of `shape`; by default it is halved three times. Empty: no sweep.
        dtype: "float32", "float64", "bfloat16" or "float16".
        backward: also time and check gradients.
        device: "auto", "cpu" or "cuda".
        progress: called with (operation, operations done, operations).

    Raises:
        UsageError: no such operation, letter, dtype or device; a backend that cannot run here.
    """
    place, kind = resolve_device(device), _dtype(dtype)
    known = cases()
    names = _matching(known, chosen)
    given = dict(shape or {})
    for letter in given:
        if not any(letter in known[name].shape for name in names):
            letters = sorted({letter for name in names for letter in known[name].shape})
            raise UsageError(f"no size {letter!r} in {', '.join(names)}", remedy=f"Sizes: {', '.join(letters)}")
    found = []
    for done, name in enumerate(names):
        progress(name, done, len(names))
        case = known[name]
        own = {letter: size for letter, size in given.items() if letter in case.shape}
        sizes = {**case.sizes(place.type), **own}
        found.append(_operation(name, case, sizes, backends, sweep, kind, backward, place))
    label = torch.cuda.get_device_name(place) if place.type == "cuda" else str(place)
    return Bench(tuple(found), label, torch.get_num_threads(), dtype)


def _operation(
    name: str,
    case: Case,
    shape: Mapping[str, int],
    backends: Sequence[str] | None,
    sizes: Sequence[int] | None,
    dtype: torch.dtype,
    backward: bool,
    device: torch.device,
) -> OperationBench:
    here, absent = _runnable(case, backends, device)
    peers = () if backends else tuple(case.peers)
    truth = definition(case, shape, dtype)
    timings = [
        timing(case, shape, truth, which, dtype, device, backward and which not in peers) for which in (*peers, *here)
    ]
    del truth
    return OperationBench(name, dict(shape), tuple(timings), _sweep(case, shape, here, sizes, dtype, device), absent)


def _runnable(case: Case, wanted: Sequence[str] | None, device: torch.device) -> tuple[tuple[str, ...], dict[str, str]]:
    """Backends that run here, and why others that might have been do not."""
    probe = torch.zeros(1, device=device)
    try:
        if wanted:
            resolved = dict.fromkeys(resolve(backend, probe) for backend in wanted)
            foreign = [backend for backend in resolved if backend not in (*case.backends, "naive")]
            return tuple(b for b in resolved if b not in foreign), dict.fromkeys(foreign, "the operation has none")
    except BackendError as reason:
        raise UsageError(str(reason)) from reason
    absent, here = {}, []
    for backend in case.backends:
        fitting = {"cpu": "cpu", "triton": "cuda"}.get(backend, device.type)
        if fitting != device.type:
            continue
        try:
            resolve(backend, probe)
            here.append(backend)
        except BackendError as reason:
            absent[backend] = str(reason)
    return tuple(here), absent


def _sweep(
    case: Case,
    shape: Mapping[str, int],
    backends: Iterable[str],
    sizes: Sequence[int] | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Sweep | None:
    """Forward times over the size of the state."""
    letter = case.sweep
    if letter not in shape or (sizes is not None and not sizes):
        return None
    largest = shape[letter]
    chosen = sizes or [largest >> k for k in range(HALVINGS + 1) if largest >> k]
    ordered = tuple(sorted({largest, *chosen}, reverse=True))
    if ordered[0] > largest or ordered[-1] < 1:
        raise UsageError(f"--sweep {letter} from {ordered[-1]} to {ordered[0]}: 1 to {largest} is possible")
    seconds: dict[str, tuple[float, ...]] = {}
    truths = [{**shape, letter: size} for size in ordered]
    for backend in backends:
        if backend in ("naive", "torch") and tuple(backends) != (backend,):
            continue
        seconds[backend] = tuple(_forward_seconds(case, small, backend, dtype, device) for small in truths)
    return Sweep(letter, ordered, seconds) if seconds else None


def _forward_seconds(
    case: Case, shape: Mapping[str, int], backend: str, dtype: torch.dtype, device: torch.device
) -> float:
    """Least time of a forward pass."""
    inputs = cast(case.make(shape), dtype, str(device))
    with torch.no_grad():
        return best(lambda: case.run(inputs, backend), device)


def _matching(known: Mapping[str, Case], chosen: Sequence[str] | None) -> list[str]:
    """Raises UsageError: a name or glob that matches nothing."""
    if not chosen:
        return list(known)
    for pattern in chosen:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise UsageError(f"no operation {pattern!r}", remedy=f"Operations: {', '.join(known)}")
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in chosen)]


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise UsageError(f"no dtype {name!r}", remedy=f"Dtypes: {', '.join(DTYPES)}")
    return DTYPES[name]
