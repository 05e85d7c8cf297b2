"""Keeps a subset of the stored poles and refits the residues: for layouts that share their poles or store real ones.

Poles are chosen one after the other by orthogonal least squares: the one whose impulse responses, made orthogonal to
those already chosen, explain most of what is left of the original in the H2 norm, summed over systems relative to
their energy. The residues are the H2 projection of the original onto the kept poles.

The impulse responses Re(lambda_i^k), Im(lambda_i^k) have the Gramian L L^T of `kautz_factor`, so the rows of L are
their coordinates in an orthonormal basis, and no ill-conditioned Gram matrix is ever solved.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ssmtool.errors import ReductionError
from ssmtool.lti.factors import Progress, batches, parallel, resolve_device
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.kautz import kautz_factor
from ssmtool.lti.norms import difference, hinf_norm
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.reductions._contract import DEFAULT, Options, Result, Target

SUMMARY = "Subset of the stored poles, common to all channels, with H2-optimal residues; no a priori bound"
REFERENCE = "Chen, Billings & Luo, Int. J. Control 50 (1989), orthogonal least squares; docs/numerics.md"
OPTIONS = ()
NEEDS = ()
COMPLEXITY = 0


def reduce(
    system: System,
    target: Target,
    *,
    options: Options = DEFAULT,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """Common subset of slots with refitted residues; every system keeps the same slots.

    Args:
        system: S stable diagonal systems with one input, slot i of every system being the same stored pole.
        target: rank counts states; energy takes the largest order balanced truncation would need; error is met by
            measuring the H-infinity error of growing subsets.

    Raises:
        ReductionError: a system that is not diagonal or has several inputs; an error that no subset meets.
    """
    if not isinstance(system, DiagonalSystem) or system.inputs != 1:
        raise ReductionError("a subset of poles can be kept only of diagonal layers with one input per system")
    spectrum = hankel_singular_values(system, device, progress)
    per_slot = 1 if system.real else 2
    rows, wanted = _coordinates(system, device)
    if target.kind == "error":
        scale = spectrum.sigma[:, 0]
        chosen = _choose(rows, wanted, system.slots)
        low, high = 1, system.slots
        while low < high:
            middle = (low + high) // 2
            trial = _refit(system, rows, wanted, chosen[:middle])
            worst = float((hinf_norm(difference(system, trial), device) / np.where(scale > 0, scale, 1.0)).max())
            low, high = (low, middle) if worst <= target.share else (middle + 1, high)
        count = low
    else:
        count = max(1, -(-int(target.orders(spectrum).max(initial=0)) // per_slot))
        if target.kind == "rank":
            count = max(1, target.rank // per_slot)
        chosen = _choose(rows, wanted, min(count, system.slots))
    chosen = chosen[: min(count, system.slots)]
    smaller = _refit(system, rows, wanted, chosen)
    slots = np.full(system.systems, len(chosen))
    return Result(
        smaller,
        slots * per_slot,
        slots,
        spectrum,
        np.full(system.systems, np.nan),
        remarks=(
            "this layout shares its poles or stores real ones: a subset of them is kept, the residues are refitted",
        ),
    )


def _coordinates(system: DiagonalSystem, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows (S, n, 2, K): coordinates of Re and Im of lambda_i^k; and the original in them, (S, p, K)."""
    target = resolve_device(device)
    a = np.where(system.a.imag < 0, system.a.conj(), system.a)
    weight: NDArray[np.complexfloating] = system.C * system.B[:, None, :, 0]
    weight = np.where((system.a.imag < 0)[:, None, :], weight.conj(), weight)

    def task(piece: slice) -> np.ndarray:
        log = torch.from_numpy(a[piece]).to(target)
        real = torch.zeros(log.shape, dtype=torch.bool, device=target)
        if system.real:
            real |= True
        return kautz_factor(log, torch.ones_like(log), real).cpu().numpy()

    L = np.concatenate(parallel(task, batches(system.systems, system.slots, target), target))
    n = system.slots
    if L.shape[1] == n:
        L = np.concatenate([L, np.zeros_like(L)], axis=1)
    rows = np.stack([L[:, :n], L[:, n:]], axis=2)
    wanted = np.einsum("spn,snk->spk", weight.real, rows[:, :, 0]) - np.einsum(
        "spn,snk->spk", weight.imag, rows[:, :, 1]
    )
    return rows, wanted


def _choose(rows: np.ndarray, wanted: np.ndarray, count: int) -> np.ndarray:
    """The first `count` slots in the order of what they explain, (count,) int64."""
    rest, left = rows.copy(), wanted.copy()
    energy = np.square(wanted).sum(axis=(1, 2))
    weight = np.divide(1.0, energy, out=np.zeros_like(energy), where=energy > 0)
    size = np.square(rows).sum(axis=(2, 3))
    free = np.ones(rows.shape[1], dtype=bool)
    chosen = []
    for _ in range(count):
        basis = _orthonormal(rest, size)
        explained = np.square(np.einsum("snik,spk->snip", basis, left)).sum(axis=(2, 3))
        gain = np.where(free, (weight[:, None] * explained).sum(axis=0), -1.0)
        best = int(np.argmax(gain))
        free[best] = False
        chosen.append(best)
        q = basis[:, best]  # (S, 2, K)
        left -= np.einsum("spi,sik->spk", np.einsum("spk,sik->spi", left, q), q)
        rest -= np.einsum("sndi,sik->sndk", np.einsum("sndk,sik->sndi", rest, q), q)
    return np.array(chosen, dtype=np.int64)


def _orthonormal(rest: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Orthonormal bases (S, n, 2, K) of each slot's two rows; a direction already spanned gives a zero row."""
    first, second = rest[:, :, 0], rest[:, :, 1]
    floor = 1e-24 * size[:, :, None]

    def unit(x: np.ndarray) -> np.ndarray:
        square = np.square(x).sum(axis=2, keepdims=True)
        return np.where(square > floor, x / np.sqrt(np.where(square > floor, square, 1.0)), 0.0)

    one = unit(first)
    other = second - (second * one).sum(axis=2, keepdims=True) * one
    return np.stack([one, unit(other)], axis=2)


def _refit(system: DiagonalSystem, rows: np.ndarray, wanted: np.ndarray, chosen: np.ndarray) -> DiagonalSystem:
    """H2 projection of every system onto the impulse responses of the chosen slots."""
    systems, k = system.systems, len(chosen)
    # 2k rows per system: Re of all chosen slots, then Im.
    basis = rows[:, chosen].transpose(0, 2, 1, 3).reshape(systems, 2 * k, -1)
    C = np.empty((systems, system.outputs, k), dtype=np.complex128)
    for s in range(systems):
        x = np.linalg.lstsq(basis[s].T, wanted[s].T, rcond=1e-13)[0].T
        C[s] = x[:, :k] - 1j * x[:, k:]
    a = system.a[:, chosen]
    C = np.where((a.imag < 0)[:, None, :], C.conj(), C)
    return DiagonalSystem(a, np.ones((systems, k, 1), dtype=np.complex128), C, system.D, real=system.real)
