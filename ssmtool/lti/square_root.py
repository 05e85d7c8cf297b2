"""Square-root projection with any pair of Gramian factors: what balanced truncation does with the usual ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ssmtool.lti.realisation import Realisation


def project(
    system: Realisation, L: Tensor, R: Tensor, order: int, negligible: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Leading states of the realisation in which both Gramians L L^T and R R^T are diag(sigma).

    With the singular value decomposition R^T L = U S Z^T the projectors are V = L Z S^-1/2 and W = R U S^-1/2.

    Args:
        system: S systems of n states.
        L: (S, n, k), R: (S, n, l) float64.
        order: states wanted; at most n are returned.
        negligible: states with sigma up to this share of the largest cannot be told from rounding and become 0.

    Returns:
        sigma (S, n), and A (S, r, r), B (S, r, m), C (S, p, r) with r = min(order, n); A's first index is the row.

    Source: Tombs & Postlethwaite, Int. J. Control 46 (1987).
    """
    n = L.shape[1]
    order = min(order, n)
    # Small matrices: the CPU's solver is the accurate one, and no slower.
    U, sigma, Zh = (x.to(L.device) for x in torch.linalg.svd((R.mT @ L).cpu(), full_matrices=False))
    lead = sigma[:, :order]
    keep = lead > negligible * sigma[:, :1]
    root = torch.where(keep, lead.clamp_min(1e-300).rsqrt(), torch.zeros_like(lead))
    V = (L @ Zh.mT[:, :, :order]) * root[:, None]
    W = (R @ U[:, :, :order]) * root[:, None]
    A, B, C = W.mT @ system.power(1, V), W.mT @ system.B, system.C @ V
    short = order - A.shape[1]
    A, B, C = pad(A, (0, short, 0, short)), pad(B, (0, 0, 0, short)), pad(C, (0, short))
    return pad(sigma, (0, n - sigma.shape[1])), A, B, C
