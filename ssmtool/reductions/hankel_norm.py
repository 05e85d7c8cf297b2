"""Optimal Hankel-norm approximation: no system of the same order comes closer in the Hankel norm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ssmtool.lti.allpass import cluster, hankel_optimal
from ssmtool.lti.diagonalise import diagonalise
from ssmtool.lti.factors import Progress
from ssmtool.lti.hankel import balance, hankel_singular_values
from ssmtool.lti.orders import tail_bound
from ssmtool.lti.systems import System, without_feedthrough
from ssmtool.lti.textbook import current_input, textbook
from ssmtool.reductions._contract import DEFAULT, Options, Result, Target

SUMMARY = "Optimal Hankel-norm approximation: error bound sum of the dropped Hankel singular values where D may change"
REFERENCE = "Adamjan, Arov & Krein, Math. USSR Sbornik 15 (1971); Glover, Int. J. Control 39 (1984)"
OPTIONS = ("feedthrough",)
NEEDS = ()
COMPLEXITY = 2

_RESOLVED = 1e-10  # below this share of sigma_1 the dilation keeps less than four digits of sigma_{r+1}


def reduce(
    system: System,
    target: Target,
    *,
    options: Options = DEFAULT,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """The optimal Hankel-norm approximation of every system.

    Where D may change, the Hankel matrix is that of the textbook form, [h_{i+j+1}]: the Hankel norm of the error is
    its sigma_{r+1}, the H-infinity norm at most sum_{k > r} sigma_k. Where D stays, it is [h_{i+j}], and the
    H-infinity norm at most twice that sum.

    A cut among equal values is moved to where they begin, which costs nothing in the Hankel norm (to where they end,
    for an energy target). Orders whose sigma_{r+1} is below 1e-10 sigma_1 are left to balanced truncation.

    Args:
        system: S stable systems.
        target: rank and energy as in balanced truncation; error through the bound.
        options: feedthrough, whether D may change.
    """
    spectrum = hankel_singular_values(system, device)
    form = textbook(system) if options.feedthrough else system
    balanced = balance(without_feedthrough(form), system.order, device)
    factor = 1.0 if options.feedthrough else 2.0
    tails = tail_bound(balanced.spectrum.sigma) / 2
    wanted = target.orders(spectrum)
    A, B, C, D = (part.copy() for part in (balanced.A, balanced.B, balanced.C, balanced.D))
    orders = np.zeros_like(wanted)
    plain = np.zeros(system.systems, dtype=bool)
    for s in range(system.systems):
        usable = int(balanced.usable[s])
        sigma = balanced.spectrum.sigma[s, :usable]
        if target.kind == "error":
            wanted[s] = _order_for_error(sigma, factor * tails[s], target.share * float(spectrum.sigma[s, 0]))
        orders[s] = r = _edge(sigma, min(int(wanted[s]), usable), up=target.kind == "energy")
        found = None
        if r < usable and sigma[r] > _RESOLVED * sigma[0]:
            found = hankel_optimal(A[s, :usable, :usable], B[s, :usable], C[s, :, :usable], sigma, r)
        if found is None:
            plain[s] = True
        else:
            A[s, :r, :r], B[s, :r], C[s, :, :r] = found[:3]
            D[s] = found[3] if options.feedthrough else 0.0
        if progress:
            progress(s + 1, system.systems)
    diagonal = diagonalise(A, B, C, D + form.D, orders)
    if (cut := (diagonal.orders < orders) & ~plain).any():
        # Rounding pushed a pole onto the unit circle; only a balanced realisation can be cut a state earlier.
        plain |= cut
        A[cut], B[cut], C[cut], D[cut] = balanced.A[cut], balanced.B[cut], balanced.C[cut], balanced.D[cut]
        diagonal = diagonalise(A, B, C, D + form.D, orders)
    reduced, moved = diagonal.system, 0.0
    if options.feedthrough:
        reduced, moved = current_input(reduced)
    else:
        reduced = replace(reduced, D=system.D)
    remarks = ()
    if few := int((plain & (diagonal.orders < balanced.usable)).sum()):
        remarks = (f"{few} of {len(orders)} systems were truncated instead: what they lose is too small to optimise",)
    gain = 2 * balanced.spectrum.sigma.sum(axis=1)
    return Result(
        system=reduced,
        orders=diagonal.orders,
        slots=diagonal.slots,
        spectrum=spectrum,
        bound=np.where(plain, 2.0, factor) * tails[np.arange(len(orders)), diagonal.orders],
        diagonal_error=diagonal.error * gain + moved,
        remarks=remarks,
    )


def _edge(sigma: np.ndarray, r: int, *, up: bool) -> int:
    """The order r, or the nearest edge of the equal values that a cut after r states would part."""
    if not 0 < r < len(sigma):
        return r
    first, last = cluster(sigma, r)
    return r if first == r else last if up else first


def _order_for_error(sigma: np.ndarray, bounds: np.ndarray, tolerance: float) -> int:
    """The smallest order at an edge whose bound is at most the tolerance; all of sigma if there is none."""
    edges = (r for r in range(len(sigma)) if _edge(sigma, r, up=False) == r)
    return next((r for r in edges if bounds[r] <= tolerance), len(sigma))
