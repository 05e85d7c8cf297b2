"""What the methods share that project with Gramians of their own: choice of the order, poles and residues, remarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ssmtool.lti.diagonalise import Diagonalised, diagonalise
from ssmtool.lti.factors import Progress, parallel, resolve_device
from ssmtool.lti.hankel import Spectrum
from ssmtool.lti.orders import order_for_energy
from ssmtool.lti.realisation import Realisation, realisations
from ssmtool.lti.square_root import project
from ssmtool.lti.systems import System
from ssmtool.reductions._contract import Result, Target
from ssmtool.reductions._search import orders_for_measured_error

Factors = Callable[[Realisation, slice], tuple[Tensor, Tensor]]
NEGLIGIBLE = 1e-14  # as in `lti.hankel`: what cannot be told from rounding in a projection


@dataclass(frozen=True)
class Projected:
    """Realisations in which both of a method's Gramians are diag(sigma), cut after some state.

    Attributes:
        sigma: (S, n) float64, descending.
        A: (S, k, k), B: (S, k, m), C: (S, p, k), D: (S, p, m) float64.
        usable: (S,) int64, leading states that are determined.
    """

    sigma: np.ndarray
    A: np.ndarray
    B: np.ndarray
    C: np.ndarray
    D: np.ndarray
    usable: np.ndarray

    def truncated(self, orders: np.ndarray) -> Diagonalised:
        """Poles and residues of the leading states, fewer of them where so many would be unstable."""
        return diagonalise(self.A, self.B, self.C, self.D, np.minimum(orders, self.usable))


def projected(
    system: System,
    factors: Factors,
    most: int,
    device: str,
    progress: Progress | None,
    negligible: float = NEGLIGIBLE,
) -> Projected:
    """Balances every system by the Gramians whose factors L and R `factors(realisation, piece)` returns."""
    target = resolve_device(device)
    pieces, realise = realisations(system, target)

    def task(piece: slice) -> tuple[np.ndarray, ...]:
        realisation = realise(piece)
        L, R = factors(realisation, piece)
        return tuple(x.cpu().numpy() for x in project(realisation, L, R, max(most, 1), negligible))

    blocks = parallel(task, pieces, target, progress)
    sigma, A, B, C = (np.concatenate(x) for x in zip(*blocks, strict=True))
    usable = (sigma > negligible * sigma[:, :1]).sum(axis=1)
    return Projected(sigma, A, B, C, system.D, np.minimum(usable, A.shape[1]))


def truncate(
    system: System, realisation: Projected, spectrum: Spectrum, target: Target, device: str, remarks: tuple[str, ...]
) -> Result:
    """The result of cutting `realisation` where the target asks for it; no a priori bound.

    Energy counts the realisation's own sigma. An error is met by measuring.

    Raises:
        ReductionError: no order meets an error target.
    """
    if target.kind == "rank":
        orders = target.orders(spectrum)
    elif target.kind == "energy":
        orders = order_for_energy(realisation.sigma, target.share)
    else:
        orders = orders_for_measured_error(
            system, spectrum, lambda r: realisation.truncated(r).system, realisation.usable, target.share, device
        )
    orders = np.minimum(orders, realisation.usable)
    diagonal = realisation.truncated(orders)
    found = list(remarks)
    mended = sum(method != "direct" for method in diagonal.method)
    if mended:
        found.append(
            f"{mended} of {len(orders)} systems had ill-conditioned eigenvectors and were perturbed or refitted"
        )
    cut = int((diagonal.orders < orders).sum())
    if cut:
        found.append(f"{cut} of {len(orders)} systems keep fewer states than asked for: with more they were not stable")
    gain = 2 * np.where(np.isfinite(spectrum.sigma), spectrum.sigma, 0.0).sum(axis=1)
    return Result(
        system=diagonal.system,
        orders=diagonal.orders,
        slots=diagonal.slots,
        spectrum=spectrum,
        bound=np.full(len(orders), np.nan),
        diagonal_error=diagonal.error * gain,
        remarks=tuple(found),
    )
