"""A stable diagonal system from records of its inputs and outputs.

A and C come from the extended observability matrix (`subspace.py`), B, D and the initial states by least squares on the
simulated outputs, in current-input form throughout: with the poles known,

    y[k] = Re(sum_i C_i (B_i s_i[k] + lambda_i^k xi_i)) + D u[k],      s_i[k] = lambda_i s_i[k-1] + u[k],

is linear in B, D and the initial states xi, so that nothing has to be converted from the textbook form, whose A need
not be invertible. Of the models that the weightings lead to, the one that simulates the records best is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from ssmtool.errors import DataError, UnstableError
from ssmtool.lti.subspace import (
    WEIGHTINGS,
    Compressed,
    compress,
    contracted,
    poles_and_outputs,
    suggested_order,
)
from ssmtool.lti.systems import DiagonalSystem

Records = Sequence[tuple[np.ndarray, np.ndarray]]

_HORIZON = 15  # steps of past and future at least, where the records are long enough
_SLOWEST = 1e-3  # decay over the longest record of poles that were moved into the unit circle
_GROWN = 3.0  # growth over the longest record, a logarithm, from which a pole outside is no rounding or noise
_FASTEST = 1e-6  # modulus of the fastest pole: a delay is a pole at 0, which current-input form has only nearly
_PIECE = 4096  # steps taken up at a time
_RANK = 1e-13  # relative singular value below which directions of the least-squares problem are left alone


@dataclass(frozen=True)
class Identified:
    """One system and how it was found.

    Attributes:
        system: S = 1.
        order: n.
        suggested: the order after which the singular values fall most.
        sigma: singular values of the weighted projection (moesp), descending, from which orders are read.
        horizon: steps of past and of future that were used.
        weighting: one of WEIGHTINGS.
        moved: poles that the records put on or outside the unit circle, and that were moved inside.
        largest: the largest modulus of a pole before.
    """

    system: DiagonalSystem
    order: int
    suggested: int
    sigma: np.ndarray
    horizon: int
    weighting: str
    moved: int
    largest: float


def identify(records: Records, order: int | None = None, horizon: int | None = None) -> Identified:
    """The system of order n that simulates the records best, among those of three subspace methods.

    Args:
        records: (u, y) pairs, (L, m) and (L, p) float64, finite; all of the same m and p.
        order: n; None takes the one the singular values suggest.
        horizon: steps of past and of future; by default max(n + 2, 15), less where the records are short or the inputs
            do not excite as much.

    Raises:
        DataError: too few samples, inputs that do not excite enough, outputs that are 0.
        UnstableError: no stable system explains the records.
    """
    data = _compressed(records, order, horizon)
    if not any(y.any() for _, y in records):
        raise DataError("the outputs are 0 throughout", remedy="Give the recorded response to the inputs")
    sigma = data.observability("moesp")[1]
    most = (data.horizon - 1) * data.outputs
    suggested = suggested_order(sigma, most)
    n = suggested if order is None else order
    tried = []
    for weighting in WEIGHTINGS:
        wide = data.observability(weighting)[0]
        A, C = poles_and_outputs(wide, n, data.outputs)
        largest = float(np.abs(np.linalg.eigvals(A)).max())
        inside = _slots(A, C, records)
        ways = [inside]
        if inside[2]:
            ways.append((*_slots(*contracted(wide, n, data.outputs), records)[:2], inside[2]))
        for a, C, moved in ways:
            system = fit_inputs(a, C, records)
            tried.append((_loss(system, records), weighting, system, moved, largest))
    loss, weighting, system, moved, largest = min(tried, key=lambda found: found[0])
    energy = sum(np.square(y - y.mean(axis=0)).sum() for _, y in records)
    grown = np.log(largest) * max(len(u) for u, _ in records)
    if moved and grown > _GROWN and loss > energy / 4:
        raise UnstableError(
            f"no stable system explains the records: their own poles have moduli up to {largest:.4g}",
            remedy="Stabilise the system before recording, or ask for a smaller --order if this is noise",
        )
    return Identified(system, n, suggested, sigma, data.horizon, weighting, moved, largest)


def _compressed(records: Records, order: int | None, horizon: int | None) -> Compressed:
    """The records with the longest horizon that they, their inputs and the order allow. Raises DataError."""
    m, p = records[0][0].shape[1], records[0][1].shape[1]
    least = 2 if order is None else -(-order // p) + 1
    if horizon is not None and horizon < least:
        raise DataError(
            f"a horizon of {horizon} steps shows no {order} states of {p} outputs",
            remedy=f"Give --horizon of at least {least}, or a smaller --order",
        )
    wanted = max(_HORIZON, 0 if order is None else order + 2) if horizon is None else horizon
    lengths = [len(u) for u, _ in records]
    room = [i for i in range(least, wanted + 1) if sum(max(0, n - 2 * i + 1) for n in lengths) >= 2 * i * (m + p)]
    if not room or (horizon is not None and room[-1] < horizon):
        i = least if horizon is None else horizon
        needed = 2 * i * (m + p) + 2 * i - 1
        what = "a model" if order is None else f"order {order}"
        raise DataError(
            f"{sum(lengths)} samples in {len(lengths)} sequences are too few for {what} with {m} inputs and {p} "
            "outputs",
            remedy=f"Record at least {needed} samples in a sequence, or ask for a smaller --order",
        )
    data = compress(records, room[-1])
    full, excited = data, data.excitation // (2 * m)
    if excited < data.horizon and horizon is None and excited >= least:
        data = compress(records, excited)
    if data.excitation < 2 * data.horizon * m:
        raise DataError(
            f"the inputs are not persistently exciting: of {2 * full.horizon * m} directions of {2 * full.horizon} "
            f"steps they contain {full.excitation}",
            remedy="Record the response to noise, a chirp or a random binary signal, in every input on its own",
        )
    return data


def _slots(A: np.ndarray, C: np.ndarray, records: Records) -> tuple[np.ndarray, np.ndarray, int]:
    """Stable logarithms of poles (n,), rows of C (p, n) by slot, one per pair, and how many poles were moved."""
    lam, X = np.linalg.eig(A)
    lam, Cd = lam.astype(np.complex128), C @ X.astype(np.complex128)
    keep = lam.imag >= 0
    lam, Cd = lam[keep], Cd[:, keep]
    size = np.abs(lam)
    limit = np.exp(-_SLOWEST / max(len(u) for u, _ in records))
    outside = size > limit
    moved = int((outside * np.where(lam.imag == 0, 1, 2)).sum())
    a = np.log(np.clip(size, _FASTEST, limit)) + 1j * np.angle(lam)
    Cd = np.where(lam.imag == 0, Cd.real, Cd)
    norm = np.linalg.norm(Cd, axis=0)
    return a, Cd / np.where(norm > 0, norm, 1.0), moved


def fit_inputs(a: np.ndarray, C: np.ndarray, records: Records) -> DiagonalSystem:
    """The system with these poles (n,) and C (p, n) whose simulation is nearest to the records: B and D.

    Initial states are free in every record: in its triangular factor they come first, and what stands below their rows
    is the problem without them.
    """
    n, (m, p) = len(a), (records[0][0].shape[1], records[0][1].shape[1])
    size = 2 * n * m + p * m
    R = np.zeros((0, size + 1))
    for u, y in records:
        own = _triangle(
            np.hstack([_free(a, C, part), _columns(C, s), _direct(u[part], p), y[part].reshape(-1, 1)])
            for part, s in _filtered(a, u)
        )
        R = np.asarray(np.linalg.qr(np.concatenate([R, own[2 * n :, 2 * n :]]), mode="r"))
    solution = _solved(R)
    real, imaginary = solution[: n * m].reshape(n, m), solution[n * m : 2 * n * m].reshape(n, m)
    B: NDArray[np.complexfloating] = real + 1j * imaginary
    return DiagonalSystem(a[None], B[None], C[None], solution[2 * n * m :].reshape(1, p, m))


def simulate(system: DiagonalSystem, u: np.ndarray, y: np.ndarray, known: int | None = None) -> np.ndarray:
    """The system's output (L, p) for the input u (L, m), from the initial state that suits the first outputs best.

    Args:
        system: S = 1.
        y: (L, p) recorded outputs, of which only the first `known` are looked at; all by default.
    """
    a, B, C, D = system.a[0], system.B[0], system.C[0], system.D[0]
    out = u @ D.T
    for pole, row, column in zip(np.exp(a), B, C.T, strict=True):
        states = np.asarray(lfilter([1.0], [1.0, -pole], u @ row))
        out += np.real(np.outer(states, column))
    known = len(u) if known is None else known
    rest = y[:known] - out[:known]
    R = _triangle(np.hstack([_free(a, C, part), rest[part].reshape(-1, 1)]) for part in _pieces(known))
    first = _solved(R)
    for part in _pieces(len(u)):
        out[part] += (_free(a, C, part) @ first).reshape(-1, C.shape[0])
    return out


def _pieces(length: int) -> Iterator[slice]:
    return (slice(start, min(start + _PIECE, length)) for start in range(0, length, _PIECE))


def _triangle(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """The triangular factor of a tall matrix that comes in blocks of rows."""
    R: np.ndarray | None = None
    for block in blocks:
        R = np.asarray(np.linalg.qr(block if R is None else np.concatenate([R, block]), mode="r"))
    assert R is not None
    return R


def _solved(R: np.ndarray) -> np.ndarray:
    """Least-squares solution for the last column of a triangular factor, columns scaled."""
    matrix, rhs = R[:, :-1], R[:, -1]
    scale = np.linalg.norm(matrix, axis=0)
    seen = scale > 0
    solution = np.zeros(matrix.shape[1])
    solution[seen] = np.linalg.lstsq(matrix[:, seen] / scale[seen], rhs, rcond=_RANK)[0] / scale[seen]
    return solution


def _loss(system: DiagonalSystem, records: Records) -> float:
    return float(sum(np.square(y - simulate(system, u, y)).sum() for u, y in records))


def _filtered(a: np.ndarray, u: np.ndarray) -> Iterator[tuple[slice, NDArray[np.complexfloating]]]:
    """Piece by piece of a record, s (steps, n, m): s[k] = exp(a) s[k-1] + u[k] for every pole and input."""
    poles = np.exp(a)
    state = np.zeros((len(a), 1, u.shape[1]), dtype=np.complex128)
    for part in _pieces(len(u)):
        s = np.empty((part.stop - part.start, len(a), u.shape[1]), dtype=np.complex128)
        for i, pole in enumerate(poles):
            s[:, i], state[i] = lfilter([1.0], [1.0, -pole], u[part].astype(complex), axis=0, zi=state[i])
        yield part, s


def _columns(C: np.ndarray, s: NDArray[np.complexfloating]) -> np.ndarray:
    """(L p, 2 n m): what the real and the imaginary parts of B add to the outputs."""
    seen = C.T[None, :, None, :] * s[:, :, :, None]  # (L, n, m, p)
    flat = seen.transpose(0, 3, 1, 2).reshape(len(s) * C.shape[0], -1)
    return np.concatenate([flat.real, -flat.imag], axis=1)


def _direct(u: np.ndarray, outputs: int) -> np.ndarray:
    """(L p, p m): what D adds."""
    return np.einsum("km,pq->kpqm", u, np.eye(outputs)).reshape(len(u) * outputs, -1)


def _free(a: np.ndarray, C: np.ndarray, part: slice) -> np.ndarray:
    """(steps p, 2 n): what the initial states add."""
    powers = np.exp(np.arange(part.start, part.stop)[:, None] * a)
    seen = (powers[:, None, :] * C).reshape(-1, len(a))
    return np.concatenate([seen.real, -seen.imag], axis=1)
