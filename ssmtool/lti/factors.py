"""Chooses how the Gramian factors of a minimal diagonal system are computed, and runs batches in parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmtool.errors import UsageError
from ssmtool.lti.blaschke import blaschke_factor, conjugate_closed, real_factor
from ssmtool.lti.block_potapov import block_potapov_factor, rotate
from ssmtool.lti.cores import cores
from ssmtool.lti.kautz import kautz_factor
from ssmtool.lti.minimal import Minimal
from ssmtool.lti.potapov import potapov_factor

Progress = Callable[[int, int], None]
# |lambda - conj lambda| / |1 - lambda^2| below which a pair is not eliminated as a pair; its square is what that costs:
# five digits, eight where several inputs make the careful way slow.
_NEARLY_REAL, _NEARLY_REAL_MANY = 3e-3, 1e-4
_MANY_INPUTS = 16  # from here on poles are eliminated in blocks
_SMALL = 256  # slots up to which a library's own threads cost more than they bring
_CHUNK_ENTRIES = 1 << 16  # systems x slots^2 of one batch: stays in a core's cache


def resolve_device(device: str) -> torch.device:
    """'auto' is CUDA if there is one, else the CPU; anything else is a torch device name. Raises UsageError."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UsageError(f"there is no device {device!r}", remedy="Use auto, cpu or cuda") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device was found", where=f"device {device}", remedy="Use cpu or auto")
    return found


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def batches(systems: int, slots: int, device: torch.device) -> list[slice]:
    """Systems in batches that stay in a core's cache; cut by size alone: results do not depend on the cores."""
    if device.type == "cpu":
        # Long batches pay less for calling the library; short ones leave work for every core.
        step = min(_CHUNK_ENTRIES // max(1, slots * slots), max(16, min(64, systems // 4)))
    else:
        step = (1 << 27) // max(1, slots * slots)
    step = max(1, step)
    return [slice(i, min(i + step, systems)) for i in range(0, systems, step)]


def parallel(
    task: Callable[[slice], Any],
    pieces: list[slice],
    device: torch.device,
    progress: Progress | None = None,
    *,
    alone: bool = False,
) -> list[Any]:
    """Runs task on every piece, on all cores of a CPU with one thread each; results in order.

    Args:
        alone: a single piece keeps the libraries' own threads (for large matrices).
        progress: called with (systems done, systems).
    """
    results = []
    workers = min(len(pieces), cores())
    if device.type != "cpu" or (alone and workers == 1):
        for piece in pieces:
            results.append(task(piece))
            if progress:
                progress(piece.stop, pieces[-1].stop)
        return results

    def single_threaded(piece: slice) -> Any:
        torch.set_num_threads(1)
        return task(piece)

    with _torch_threads(1), ThreadPoolExecutor(workers) as pool:
        for piece, result in zip(pieces, pool.map(single_threaded, pieces), strict=True):
            results.append(result)
            if progress:
                progress(piece.stop, pieces[-1].stop)
    return results


def factorised(
    minimal: Minimal, task: Callable[[Slots, bool], tuple[Tensor, ...]], device: torch.device, progress: Progress | None
) -> tuple[np.ndarray, ...]:
    """Runs task(slots, careful) over all systems, the few with nearly real pairs apart and carefully.

    Returns:
        the task's tensors, each (S, …), as arrays in the order of the systems.
    """
    near = nearly_real(minimal)
    systems, slots = minimal.a.shape
    results: list[tuple[np.ndarray, tuple[np.ndarray, ...]]] = []
    done = 0
    for careful in (False, True):
        index = np.flatnonzero(near == careful)
        if not len(index):
            continue
        part = minimal.take(index) if near.any() else minimal
        step = None if progress is None else (lambda n, _, start=done: progress(start + n, systems))

        def run(piece: slice, part: Minimal = part, careful: bool = careful) -> tuple[np.ndarray, ...]:
            return tuple(x.cpu().numpy() for x in task(Slots(part, piece, device), careful))

        blocks = parallel(run, batches(len(index), slots, device), device, step, alone=slots > _SMALL)
        results.append((index, tuple(np.concatenate(x) for x in zip(*blocks, strict=True))))
        done += len(index)
    if len(results) == 1:
        return results[0][1]
    order = np.argsort(np.concatenate([index for index, _ in results]))
    return tuple(np.concatenate(x)[order] for x in zip(*(arrays for _, arrays in results), strict=True))


def nearly_real(minimal: Minimal) -> np.ndarray:
    """(S,) bool: systems with a complex pair so close to the real axis that it should not be eliminated as a pair."""
    a = minimal.a
    limit = _NEARLY_REAL if minimal.B.shape[2] == minimal.C.shape[1] == 1 else _NEARLY_REAL_MANY
    split = 2 * np.exp(a.real) * np.abs(np.sin(a.imag))
    near = split < limit * np.abs(1 - np.exp(2 * a))
    return np.any(near & minimal.active & ~minimal.real, axis=1)


class Slots:
    """Tensors of a batch of minimal systems on one device, and their Gramian factors.

    Real coordinates of slot i are (Re x_i, Im x_i), rows i and N + i; for a real slot the second is absent (zero row).
    """

    def __init__(self, minimal: Minimal, piece: slice, device: torch.device) -> None:
        self.a = torch.from_numpy(minimal.a[piece]).to(device)
        self.B = torch.from_numpy(minimal.B[piece].astype(np.complex128)).to(device)
        self.C = torch.from_numpy(minimal.C[piece].astype(np.complex128)).to(device)
        self.real = torch.from_numpy(minimal.real[piece]).to(device)
        self.siso = self.B.shape[2] == self.C.shape[1] == 1

    def mirror(self) -> Tensor:
        """(S, 2N) the diagonal of J: A^T = J A J in real coordinates."""
        ones = torch.ones_like(self.a.real)
        return torch.cat([ones, -ones], dim=1)

    def reachability(self) -> Tensor:
        """L (S, 2N, k), P = L L^T."""
        return gramian_factor(self.a, self.B, self.real)

    def observability(self) -> Tensor:
        """R (S, 2N, k), Q = R R^T, through the dual system (C^T in mirrored coordinates)."""
        return self.mirror()[:, :, None] * gramian_factor(self.a, self.C.mT.contiguous(), self.real)

    def factors(self) -> tuple[Tensor, Tensor]:
        """L and R; for one large system on a CPU, one core each."""
        if self.a.device.type != "cpu" or min(self.B.shape[2], self.C.shape[1]) < _MANY_INPUTS:
            return self.reachability(), self.observability()
        halves = [slice(0, 1), slice(1, 2)]
        L, R = parallel(
            lambda piece: self.observability() if piece.start else self.reachability(), halves, self.a.device
        )
        return L, R

    def signature(self) -> Tensor:
        """(S, 2N) sign matrix with R = diag(signature) L for one input and one output scaled to b = +-c."""
        sign = torch.where((self.B[:, :, 0] * self.C[:, 0]).real * self.real < 0, -1.0, 1.0).to(torch.float64)
        return torch.cat([sign, -torch.ones_like(sign)], dim=1)

    def careful(self) -> tuple[Tensor, Tensor, Tensor]:
        """R* L (complex, graded), and real factors L and R, computed pole by pole."""
        a, B = conjugate_closed(self.a, self.B, self.real)
        L = blaschke_factor(a, B)
        if self.siso:
            sign = self.signature()[:, : self.a.shape[1]]  # C = +-B^T: the dual system is the mirror image
            R = torch.cat([sign, sign], dim=1)[:, :, None] * L.conj()
        else:
            _, Ct = conjugate_closed(self.a, self.C.mT.conj().contiguous(), self.real)
            R = blaschke_factor(a.conj(), Ct)
        return R.mH @ L, real_factor(L, self.real), real_factor(R, self.real)

    def apply_A(self, X: Tensor) -> Tensor:
        """A X for X (S, 2N, k) in real coordinates, by rotations of row pairs."""
        lam = torch.exp(self.a)
        return rotate(torch.where(self.real, lam.real.to(lam.dtype), lam), X)

    def real_B(self) -> Tensor:
        """(S, 2N, m)."""
        return torch.cat([self.B.real, self.B.imag], dim=1)

    def real_C(self) -> Tensor:
        """(S, p, 2N)."""
        return torch.cat([self.C.real, -self.C.imag], dim=2)


def gramian_factor(a: Tensor, B: Tensor, real: Tensor) -> Tensor:
    """L (S, 2N, k), P = L L^T in real coordinates, by the algorithm that suits the number of inputs.

    Args:
        a: (S, N) complex128 logarithms of stable poles. B: (S, N, m) complex128. real: (S, N) bool.
    """
    if B.shape[2] >= _MANY_INPUTS:
        return block_potapov_factor(a, B, real)
    if B.shape[2] > 1:
        return potapov_factor(a, B, real)
    L = kautz_factor(a, B[:, :, 0].contiguous(), real)
    return L if L.shape[1] == 2 * a.shape[1] else torch.cat([L, torch.zeros_like(L)], dim=1)
