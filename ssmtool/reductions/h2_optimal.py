"""H2-optimal reduction: poles and residues that are together a local minimum of the error's energy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ssmtool.lti.diagonalise import diagonalise
from ssmtool.lti.factors import Progress, parallel, resolve_device
from ssmtool.lti.hankel import balance
from ssmtool.lti.irka import Tangential, irka
from ssmtool.lti.minimal import Minimal, minimal
from ssmtool.lti.norms import difference, h2_norm, hinf_norm
from ssmtool.lti.pole_search import Projection, search, sections
from ssmtool.lti.systems import DiagonalSystem, System, without_feedthrough
from ssmtool.reductions import balanced
from ssmtool.reductions._contract import DEFAULT, Options, Result, Target

SUMMARY = "H2-optimal poles and residues, started from balanced truncation and never worse in H2; no a priori bound"
REFERENCE = "Meier & Luenberger 1967; Gugercin, Antoulas & Beattie, SIMAX 30 (2008); Bunse-Gerstner et al. 2010"
OPTIONS = ()
NEEDS = ()
COMPLEXITY = 3

_TOGETHER = 16  # systems of one batch; the second derivatives of 16 systems of order 64 fill a core's cache

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

    One input or one output: Newton's method on the poles with the residues eliminated (`lti.pole_search`). Several of
    both: tangential IRKA (`lti.irka`). D stays. Systems whose truncation has the smaller H2 error keep it, and under
    an error target those whose H-infinity error would miss it.

    Args:
        system: S stable systems.
        target: the order is that of balanced truncation.
    """
    truncated = balanced.reduce(system, target, device=device)
    modes = minimal(system if isinstance(system, DiagonalSystem) else _poles(system, device))
    start = [_upper(truncated.system.a[s, :k]) for s, k in enumerate(truncated.slots)]
    step = _TOGETHER if min(system.inputs, system.outputs) == 1 else 1
    pieces = [slice(i, min(i + step, system.systems)) for i in range(0, system.systems, step)]

    def task(piece: slice) -> Piece:
        index = np.arange(piece.start, piece.stop)
        if step > 1:
            return _search(modes.take(index), [start[s] for s in index])
        return [_tangential(modes, truncated, start[s], s) for s in index]

    found = [slots for piece in parallel(task, pieces, resolve_device("cpu"), progress) for slots in piece]
    optimal = _stack(found, system)
    keep = h2_norm(_error(system, optimal)) < h2_norm(_error(system, truncated.system))
    if target.kind == "error":
        worst = hinf_norm(_error(system, optimal), device)
        keep &= worst <= target.share * truncated.spectrum.sigma[:, 0]
    width = max(optimal.slots, truncated.system.slots)
    chosen = [
        np.where(keep.reshape(-1, *[1] * (x.ndim - 1)), x, y) for x, y in _pairs(optimal, truncated.system, width)
    ]
    slots = np.where(keep, [len(a) for a, _, _ in found], truncated.slots)
    width = max(1, int(slots.max(initial=1)))
    a, B, C = chosen
    remarks = truncated.remarks
    if not keep.all():
        remarks = (f"{int((~keep).sum())} of {system.systems} systems stay balanced truncations", *remarks)
    return replace(
        truncated,
        system=DiagonalSystem(a[:, :width], B[:, :width], C[:, :, :width], system.D),
        slots=slots,
        bound=np.full(system.systems, np.nan),
        diagonal_error=np.where(keep, 0.0, truncated.diagonal_error),
        remarks=remarks,
    )


def _poles(system: System, device: str) -> DiagonalSystem:
    """A dense system in pole-residue form, as far as float64 determines it."""
    full = balance(system, system.order, device)
    return diagonalise(full.A, full.B, full.C, full.D, full.usable).system


def _upper(a: NDArray[np.complexfloating]) -> NDArray[np.complexfloating]:
    """Poles from their logarithms, real ones without a trace of an imaginary part."""
    mu: NDArray[np.complexfloating] = np.exp(a)
    return np.where(np.abs(np.sin(a.imag)) < 1e-14, mu.real, mu)


def _search(modes: Minimal, start: list[NDArray[np.complexfloating]]) -> Piece:
    """Logarithms, B and C of the optimal systems with one input or one output."""
    single = modes.B.shape[2] == 1
    weight = modes.C * modes.B[:, None, :, 0] if single else (modes.B * modes.C[:, 0, :, None]).transpose(0, 2, 1)
    projection = Projection(modes, weight)
    poles = search(projection, sections(start)).poles()
    slots = []
    for mu, c in zip(poles, projection.residues(poles), strict=True):
        one = np.ones((len(mu), 1), dtype=np.complex128)
        slots.append((_log(mu), one, c) if single else (_log(mu), c.T, one.T))
    return slots


def _tangential(modes: Minimal, truncated: Result, mu: NDArray[np.complexfloating], s: int):
    """Logarithms, B and C of the IRKA iterate with the least error of one system."""
    k = len(mu)
    b, c = truncated.system.B[s, :k], truncated.system.C[s, :, :k].T
    if k == 0 or not modes.active[s].any():
        return _log(mu), b, c.T
    live = modes.active[s]
    found = irka(modes.a[s, live], modes.B[s, live], modes.C[s][:, live], Tangential(mu, b, c))
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


def _pairs(first: DiagonalSystem, second: DiagonalSystem, width: int):
    """a, B and C of two batches, padded to the same width."""
    for name, axis, fill in (("a", 1, -1.0), ("B", 1, 0.0), ("C", 2, 0.0)):
        parts = []
        for system in (first, second):
            x = getattr(system, name)
            pad = [(0, 0)] * x.ndim
            pad[axis] = (0, width - system.slots)
            parts.append(np.pad(x, pad, constant_values=fill))
        yield parts


def _error(system: System, reduced: DiagonalSystem) -> System:
    return without_feedthrough(difference(system, reduced))
