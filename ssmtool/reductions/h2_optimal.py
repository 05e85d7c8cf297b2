"""H2-optimal reduction: poles and residues that are together a local minimum of the error's energy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ssmtool.lti.diagonalise import Diagonalised, diagonalise
from ssmtool.lti.factors import Progress, parallel, resolve_device
from ssmtool.lti.h2_descent import descend
from ssmtool.lti.hankel import balance
from ssmtool.lti.irka import Tangential, irka
from ssmtool.lti.minimal import Minimal, minimal
from ssmtool.lti.modes import mode_h2_norms
from ssmtool.lti.norms import difference, h2_norm, hinf_norm
from ssmtool.lti.pole_search import Projection, search, sections
from ssmtool.lti.systems import DiagonalSystem, System, without_feedthrough
from ssmtool.reductions._contract import DEFAULT, Options, Result, Target

SUMMARY = "H2-optimal poles and residues, started from balanced truncation and never worse in H2; no a priori bound"
REFERENCE = "Meier & Luenberger 1967; Gugercin, Antoulas & Beattie, SIMAX 30 (2008); Bunse-Gerstner et al. 2010"
OPTIONS = ()
NEEDS = ()
COMPLEXITY = 3

_TOGETHER = 16  # systems of one batch; the second derivatives of 16 systems of order 64 fill a core's cache
_SMALL = 16  # order up to which a second start is worth its time: beyond, minima differ by less than a percent

Piece = list[tuple[NDArray[np.complexfloating], NDArray[np.complexfloating], NDArray[np.complexfloating]]]


def reduce(
    system: System,
    target: Target,
    *,
    options: Options = DEFAULT,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """Moves poles and residues of the balanced truncation to the nearest minimum of the H2 error.

    One input or one output: Newton's method on the poles with the residues eliminated (`lti.pole_search`), from the
    truncation and, up to order 16, from the modes with the largest H2 norms; the better of the two minima. Several of
    both: tangential IRKA (`lti.irka`) from the truncation, then descent (`lti.h2_descent`). D stays. Systems whose
    truncation has the smaller H2 error keep it, and under an error target those whose H-infinity error would miss it.

    Args:
        system: S stable systems.
        target: the order is that of balanced truncation.
    """
    full = balance(system, system.order, device)
    orders = np.minimum(target.orders(full.spectrum), full.usable)
    truncated = diagonalise(full.A, full.B, full.C, full.D, orders)
    # A dense system in pole-residue form, as far as float64 determines it.
    poles = diagonalise(full.A, full.B, full.C, full.D, full.usable).system
    modes = minimal(system if isinstance(system, DiagonalSystem) else poles)
    start = [_upper(truncated.system.a[s, :k]) for s, k in enumerate(truncated.slots)]
    single = min(system.inputs, system.outputs) == 1
    step = _TOGETHER if single else 1
    pieces = [slice(i, min(i + step, system.systems)) for i in range(0, system.systems, step)]

    def task(piece: slice) -> Piece:
        index = np.arange(piece.start, piece.stop)
        if single:
            return _search(modes.take(index), [start[s] for s in index])
        return [_tangential(modes, truncated, start[s], s) for s in index]

    found = [slots for piece in parallel(task, pieces, resolve_device("cpu"), progress) for slots in piece]
    optimal = _stack(found, system)
    # A pole that rounding put on the unit circle would be left out of the norm.
    keep = (optimal.a.real < 0).all(axis=1) & np.isfinite(optimal.C).all(axis=(1, 2))
    keep &= h2_norm(_error(system, optimal)) < h2_norm(_error(system, truncated.system))
    if target.kind == "error":
        worst = hinf_norm(_error(system, optimal), device)
        keep &= worst <= target.share * full.spectrum.sigma[:, 0]
    plain = truncated.system
    kept = [
        piece if k else (plain.a[s, :n], plain.B[s, :n], plain.C[s, :, :n])
        for s, (piece, k, n) in enumerate(zip(found, keep, truncated.slots, strict=True))
    ]
    remarks = ()
    if stay := int((~keep & (truncated.orders < full.usable)).sum()):
        remarks = (f"{stay} of {system.systems} systems stay balanced truncations",)
    gain = 2 * full.spectrum.sigma.sum(axis=1)
    return Result(
        system=_stack(kept, system),
        orders=truncated.orders,
        slots=np.array([len(a) for a, _, _ in kept], dtype=np.int64),
        spectrum=full.spectrum,
        bound=np.full(system.systems, np.nan),
        diagonal_error=np.where(keep, 0.0, truncated.error * gain),
        remarks=remarks,
    )


def _upper(a: NDArray[np.complexfloating]) -> NDArray[np.complexfloating]:
    """Poles from their logarithms, real ones without a trace of an imaginary part."""
    mu: NDArray[np.complexfloating] = np.exp(a)
    return np.where(np.abs(np.sin(a.imag)) < 1e-14, mu.real, mu)


def _search(modes: Minimal, start: list[NDArray[np.complexfloating]]) -> Piece:
    """Logarithms, B and C of the optimal systems with one input or one output."""
    single = modes.B.shape[2] == 1
    weight = modes.C * modes.B[:, None, :, 0] if single else (modes.B * modes.C[:, 0, :, None]).transpose(0, 2, 1)
    projection = Projection(modes, weight)
    best = search(projection, sections(start))
    poles = best.poles()
    if max(len(mu) + (mu.imag != 0).sum() for mu in start) <= _SMALL:
        other = search(projection, sections(_dominant(modes, start)))
        better = projection.error(other) < projection.error(best)
        poles = [x if b else y for b, x, y in zip(better, other.poles(), poles, strict=True)]
    slots = []
    for mu, c in zip(poles, projection.residues(poles), strict=True):
        ones = np.ones((len(mu), 1), dtype=np.complex128)
        slots.append((_log(mu), ones, c) if single else (_log(mu), c.T, ones.T))
    return slots


def _dominant(modes: Minimal, start: list[NDArray[np.complexfloating]]) -> list[NDArray[np.complexfloating]]:
    """The poles whose modes have the largest H2 norms, as many states as in `start`; `start` where that cannot be."""
    direct = np.zeros((len(modes.a), modes.C.shape[1], modes.B.shape[2]))
    norm = np.where(modes.active, mode_h2_norms(DiagonalSystem(modes.a, modes.B, modes.C, direct)), 0.0)
    states = np.where(modes.active, np.where(modes.real, 1, 2), 0)
    found = []
    for s, mu in enumerate(start):
        left = len(mu) + int((mu.imag != 0).sum())
        kept = []
        for i in np.argsort(-norm[s], kind="stable"):
            if 0 < states[s, i] <= left:
                kept.append(i)
                left -= states[s, i]
        poles = np.where(modes.real[s], np.exp(modes.a[s]).real, np.exp(modes.a[s]))
        found.append(poles[kept] if left == 0 else mu)
    return found


def _tangential(modes: Minimal, truncated: Diagonalised, mu: NDArray[np.complexfloating], s: int):
    """Logarithms, B and C of the minimum that IRKA, and descent from its best iterate, reach for one system."""
    k = len(mu)
    b, c = truncated.system.B[s, :k], truncated.system.C[s, :, :k].T
    if k == 0 or not modes.active[s].any():
        return _log(mu), b, c.T
    live = modes.active[s]
    parts = modes.a[s, live], modes.B[s, live], modes.C[s][:, live]
    found = descend(*parts, irka(*parts, Tangential(mu, b, c)))
    return _log(found.mu), found.b, found.c.T


def _log(mu: NDArray[np.complexfloating]) -> NDArray[np.complexfloating]:
    return np.log(np.maximum(np.abs(mu), 1e-300)) + 1j * np.angle(mu)


def _stack(slots: Piece, system: System) -> DiagonalSystem:
    """Systems of different slot counts side by side, padded with silent slots."""
    width = max([len(a) for a, _, _ in slots] + [1])
    a = np.full((system.systems, width), -1.0 + 0j)
    B = np.zeros((system.systems, width, system.inputs), dtype=np.complex128)
    C = np.zeros((system.systems, system.outputs, width), dtype=np.complex128)
    for s, (log, b, c) in enumerate(slots):
        a[s, : len(log)], B[s, : len(log)], C[s, :, : len(log)] = log, b, c
    return DiagonalSystem(a, B, C, system.D)


def _error(system: System, reduced: DiagonalSystem) -> System:
    return without_feedthrough(difference(system, reduced))
