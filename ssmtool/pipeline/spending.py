"""A total number of states, spent where it buys most: cost curves in, ranks out."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from ssmtool.errors import ReductionError


def spend(
    costs: Sequence[np.ndarray], sizes: Sequence[int], floors: Sequence[int], total: int, step: int = 1
) -> np.ndarray:
    """Ranks r_u that make sum_u c_u(r_u) small subject to sum_u size_u r_u <= total.

    Marginal gains on the lower convex hull of every curve are taken in falling order (Fox, "Discrete optimization via
    marginal analysis", Management Science 13 (1966)). For convex curves, equal sizes and step 1 that is the optimum.
    The total is used up exactly unless every unit is full or the sizes allow no combination.

    Args:
        costs: of every unit, (n_u + 1,) float64: entry r is what is lost at rank r.
        sizes: states that one more rank of the unit takes (the systems of a layer; 1 for a single system).
        floors: ranks that every unit has at least.
        total: states.
        step: ranks go to multiples of it where the total allows; 2 where a stored slot is a pair of states.

    Returns:
        (U,) int64.

    Raises:
        ReductionError: the floors alone are more than the total.
    """
    most = np.array([len(cost) - 1 for cost in costs])
    ranks = np.minimum(np.asarray(floors, dtype=np.int64), most)
    left = total - int((ranks * np.asarray(sizes)).sum())
    if left < 0:
        raise ReductionError(
            f"{total} states are fewer than the {total - left} that have to stay (one per system, and unstable ones)",
            remedy="Ask for more states",
        )
    hulls = [lower_hull(cost) for cost in costs]
    for stride in dict.fromkeys((step, 1)):
        left = _spend(ranks, hulls, sizes, most, left, stride)
    return ranks


def _spend(
    ranks: np.ndarray, hulls: list[np.ndarray], sizes: Sequence[int], most: np.ndarray, left: int, stride: int
) -> int:
    """Raise `ranks` in place to multiples of `stride`, the best gain per state first; what is left of `left`."""
    queue: list[tuple[float, int]] = []

    def offer(u: int) -> None:
        after = _next(ranks[u], stride)
        if after <= most[u]:
            gain = hulls[u][ranks[u]] - hulls[u][after]
            heapq.heappush(queue, (-gain / ((after - ranks[u]) * sizes[u]), u))

    for u in range(len(ranks)):
        offer(u)
    while queue:
        _, u = heapq.heappop(queue)
        after = _next(ranks[u], stride)
        price = int((after - ranks[u]) * sizes[u])
        if price <= left:  # a unit that is too wide for the rest is left out; narrower ones may still fit
            ranks[u], left = after, left - price
            offer(u)
    return left


def _next(rank: int, stride: int) -> int:
    """The next multiple."""
    return (int(rank) // stride + 1) * stride


def lower_hull(cost: np.ndarray) -> np.ndarray:
    """The largest convex, nowhere rising curve below `cost`, (n + 1,) float64."""
    falling = np.minimum.accumulate(np.asarray(cost, dtype=np.float64))
    corners: list[int] = []
    for r in range(len(falling)):
        while len(corners) > 1:
            a, b = corners[-2:]
            if (falling[b] - falling[a]) * (r - a) < (falling[r] - falling[a]) * (b - a):
                break
            corners.pop()
        corners.append(r)
    return np.interp(np.arange(len(falling)), corners, falling[corners])


def between(grid: Sequence[int], values: np.ndarray, most: int) -> np.ndarray:
    """Curves (..., most + 1) through values (..., R) at the ranks `grid`, logarithms interpolated; 0 at `most`.

    Errors fall by factors, not by differences, as a rank grows; below the first rank of the grid its value stays.
    """
    falling = np.minimum.accumulate(np.maximum(values, 0.0), axis=-1)
    top = falling[..., :1].max(axis=-1, keepdims=True)
    logs = np.log(np.maximum(falling, np.maximum(1e-12 * top, 1e-300)))
    ranks, flat = np.arange(most + 1), logs.reshape(-1, logs.shape[-1])
    curves = np.exp(np.stack([np.interp(ranks, grid, row) for row in flat])).reshape(*logs.shape[:-1], most + 1)
    curves[..., most] = 0.0
    return np.where(top > 0, curves, 0.0)


def ranks_to_measure(order: int, count: int = 9) -> list[int]:
    """Ranks below the order at which a curve is measured: 1, and on by equal factors."""
    return [int(r) for r in np.unique(np.rint(np.geomspace(1, order, count))) if r < order] or [1]
