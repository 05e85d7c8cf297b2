"""From spectra to the curves a plot shows: quantiles over the systems of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ssmtool.report.facts import scale

if TYPE_CHECKING:
    from ssmtool.pipeline.model import LayerSpectrum

QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)


@dataclass(frozen=True)
class Band:
    """Quantiles of one quantity over the systems of a layer.

    Attributes:
        x: (n,) positions.
        quantiles: (5, n) smallest, 10 %, median, 90 %, largest; NaN where no system has a finite value or where the
            largest is 0, so that nothing is drawn there.
    """

    x: np.ndarray
    quantiles: np.ndarray

    @property
    def median(self) -> np.ndarray:
        return self.quantiles[2]

    def positive(self) -> np.ndarray:
        """All values a logarithmic axis can show."""
        return self.quantiles[np.isfinite(self.quantiles) & (self.quantiles > 0)]


@dataclass(frozen=True)
class Curves:
    """What is drawn of one layer, relative to the largest finite sigma of each system.

    Attributes:
        name: of the layer.  systems: S.  order: n.
        sigma: sigma_k at k = 1..n.
        bound: 2 * (sigma_r+1 + ... + sigma_n) at r = 0..n-1; at r = n it is 0.
        remarks: states that cannot be drawn on a logarithmic axis.
    """

    name: str
    systems: int
    order: int
    sigma: Band
    bound: Band
    remarks: tuple[str, ...]


def curves(entry: LayerSpectrum) -> Curves:
    """The curves of a layer."""
    from ssmtool.lti.orders import tail_bound

    sigma = entry.spectrum.sigma
    top = scale(sigma)
    order = sigma.shape[1]
    redundant, unstable = int(entry.spectrum.redundant.sum()), int(entry.spectrum.unstable.sum())
    remarks = [f"{count} with σ = {value}" for count, value in ((unstable, "∞"), (redundant, "0")) if count]
    if remarks:
        remarks[-1] += " not drawn"
    return Curves(
        entry.layer.name,
        sigma.shape[0],
        order,
        _band(np.arange(1, order + 1), sigma / top),
        _band(np.arange(order), (tail_bound(sigma) / top)[:, :-1]),
        tuple(remarks),
    )


def _band(x: np.ndarray, values: np.ndarray) -> Band:
    """Quantiles of the finite values in each column of (S, n)."""
    quantiles = np.full((len(QUANTILES), values.shape[1]), np.nan)
    for k, column in enumerate(values.T):
        finite = column[np.isfinite(column)]
        if finite.size and finite.max() > 0:
            quantiles[:, k] = np.quantile(finite, QUANTILES)
    return Band(x, quantiles)
