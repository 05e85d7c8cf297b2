"""Balanced stochastic truncation: small relative error at every frequency, not only where the gain is large.

States are ordered by the Hankel singular values s of the phase system W^{-*} G, G G~ = W~ W, and the last ones are
replaced by their steady state, which keeps G(1) exactly. The relative error is at most prod (1 + s) / (1 - s) - 1 over
what was dropped. The theorem (see REFERENCE) is one of continuous time; the bilinear map w = (z - 1) / (z + 1) takes it
over, as it keeps Gramians, and to truncate in terms of 1 / w is to replace by the steady state.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ssmtool.errors import ReductionError
from ssmtool.lti.diagonalise import Diagonalised, diagonalise
from ssmtool.lti.factors import Progress
from ssmtool.lti.hankel import balance
from ssmtool.lti.norms import hinf_norm
from ssmtool.lti.orders import order_for_energy, tail_bound
from ssmtool.lti.residues import refit_residues
from ssmtool.lti.stochastic import Stochastic, stochastic_balance
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.lti.textbook import current_input
from ssmtool.reductions._contract import DEFAULT, Options, Result, Target
from ssmtool.reductions._search import orders_for_measured_error

SUMMARY = "Balanced stochastic truncation: bound prod (1+s)/(1-s) - 1 on the relative error; square systems; needs D"
REFERENCE = "Desai & Pal, IEEE TAC 29 (1984); Green, IEEE TAC 33 (1988); Zhou & Doyle, Robust and Optimal Control, 1996"
OPTIONS = ("feedthrough",)
NEEDS = ()
COMPLEXITY = 2

_REFUSED = "D + C B is singular, G has a zero on the unit circle, or its gains span more than six digits"
_TIGHT = 1e-3  # how far below the true norm `hinf_norm` may stay
_ONE = 1e-9  # distance of a phase value from 1 that is rounding


def reduce(
    system: System,
    target: Target,
    *,
    options: Options = DEFAULT,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """Balanced stochastic reduction of every system for which the relative error means something.

    Systems with D + C B singular, a zero on the unit circle, or gains that span more than about six digits (more than
    a float64 holds of the spectrum G G~) are reduced by balanced truncation instead, and a remark counts them. Where D
    must not change, the residues are refitted for the D there is, and there is no bound.

    Args:
        system: S stable systems with as many outputs as inputs.
        target: energy counts the phase values s; an error is met by measuring.
        options: feedthrough.

    Raises:
        ReductionError: other numbers of inputs and outputs; every system is refused; no order meets an error target.
    """
    if system.inputs != system.outputs:
        raise ReductionError(
            f"a relative error needs as many outputs as inputs, found {system.outputs} and {system.inputs}",
            remedy="Use --method balanced for this layer",
        )
    balanced = balance(system, max(system.order, 1), device, progress)
    stochastic = stochastic_balance(balanced)
    count, refused = system.systems, stochastic.refused
    if refused.any() and (refused | (balanced.usable == 0)).all():
        raise ReductionError(
            f"the relative error has no meaning: {_REFUSED}",
            remedy="Use --method balanced for this layer",
        )

    def cut(orders: np.ndarray) -> tuple[Diagonalised, np.ndarray]:
        found, shifted = _cut(stochastic, orders)
        if options.feedthrough:
            return found, shifted
        kept = replace(found.system, D=system.D)
        C = np.where(refused[:, None, None], kept.C, refit_residues(system, kept, device=device).C)
        return replace(found, system=replace(kept, C=C)), shifted

    if target.kind == "rank":
        orders = target.orders(balanced.spectrum)
    elif target.kind == "energy":
        orders = order_for_energy(stochastic.s, target.share)
    else:
        orders = orders_for_measured_error(
            system, balanced.spectrum, lambda r: cut(r)[0].system, stochastic.usable, target.share, device
        )
    orders = np.minimum(orders, stochastic.usable)
    diagonal, shifted = cut(orders)
    bound = np.where(
        refused,
        tail_bound(balanced.spectrum.sigma)[np.arange(count), diagonal.orders],
        _relative_bound(stochastic, diagonal.orders) * hinf_norm(system, device) * (1 + _TIGHT),
    )
    # Residues of poles close to 0 cancel against D.
    size = (np.linalg.norm(diagonal.system.C, axis=1) * np.linalg.norm(diagonal.system.B, axis=2)).sum(axis=1)
    gain = 2 * balanced.spectrum.sigma.sum(axis=1)
    return Result(
        system=diagonal.system,
        orders=diagonal.orders,
        slots=diagonal.slots,
        spectrum=balanced.spectrum,
        bound=np.where(np.isfinite(bound) & (options.feedthrough | refused), bound, np.nan),
        diagonal_error=diagonal.error * gain + shifted + np.finfo(float).eps * size,
        remarks=_remarks(stochastic, diagonal, orders, options),
    )


def _cut(stochastic: Stochastic, orders: np.ndarray) -> tuple[Diagonalised, np.ndarray]:
    """Poles and residues at the given orders, in current-input form, and what moving poles away from 0 has changed.

    Where a result is unstable, one state fewer is kept.
    """
    orders = np.minimum(orders, stochastic.usable)
    found = diagonalise(*_residualised(stochastic, orders), orders)
    while (found.orders < orders).any():
        orders = found.orders
        found = diagonalise(*_residualised(stochastic, orders), orders)
    converted, shifted = current_input(found.system)
    plain = stochastic.refused
    small = DiagonalSystem(
        np.where(plain[:, None], found.system.a, converted.a),
        found.system.B,
        np.where(plain[:, None, None], found.system.C, converted.C),
        np.where(plain[:, None, None], found.system.D, converted.D),
    )
    return replace(found, system=small), np.where(plain, 0.0, shifted)


def _residualised(stochastic: Stochastic, orders: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A, B, C, D with the last states at rest, x2 = (I - A22)^{-1} (A21 x1 + B2 u); refused systems as they are."""
    A, B, C, D = (x.copy() for x in (stochastic.A, stochastic.B, stochastic.C, stochastic.D))
    for s in np.flatnonzero(~stochastic.refused & (orders < stochastic.usable)):
        r, u = orders[s], stochastic.usable[s]
        rest = np.linalg.solve(np.eye(u - r) - A[s, r:u, r:u], np.concatenate([A[s, r:u, :r], B[s, r:u]], axis=1))
        D[s] += C[s, :, r:u] @ rest[:, r:]
        C[s, :, :r] += C[s, :, r:u] @ rest[:, :r]
        B[s, :r] += A[s, :r, r:u] @ rest[:, r:]
        A[s, :r, :r] += A[s, :r, r:u] @ rest[:, :r]
    return A, B, C, D


def _relative_bound(stochastic: Stochastic, orders: np.ndarray) -> np.ndarray:
    """(S,) prod (1 + s) / (1 - s) - 1 over the dropped phase values; infinite where one of them is 1."""
    dropped = (np.arange(stochastic.s.shape[1]) >= orders[:, None]) & ~stochastic.refused[:, None]
    s = np.where(dropped, stochastic.s, 0.0)
    # Zeros outside the circle have s = 1; what cannot be told from 1 has no bound.
    one = s > 1 - _ONE
    with np.errstate(over="ignore"):
        return np.expm1(np.where(one, np.inf, 2 * np.arctanh(np.where(one, 0.0, s))).sum(axis=1))


def _remarks(stochastic: Stochastic, diagonal: Diagonalised, orders: np.ndarray, options: Options) -> tuple[str, ...]:
    count, refused = len(orders), int(stochastic.refused.sum())
    found = []
    if refused:
        found.append(
            f"{refused} of {count} systems were reduced by balanced truncation, as a relative error has no meaning for "
            f"them: {_REFUSED}"
        )
    if not options.feedthrough:
        found.append("D stays as it is here: the residues were refitted to it, and the relative error has no bound")
    mended = sum(method != "direct" for method in diagonal.method)
    if mended:
        found.append(f"{mended} of {count} systems had ill-conditioned eigenvectors and were perturbed or refitted")
    cut = int((diagonal.orders < orders).sum())
    if cut:
        found.append(f"{cut} of {count} systems keep fewer states than asked for: with more they were not stable")
    return tuple(found)
