"""Dashed paths that keep clear of each other, for many images at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TRIES = 8  # directions tried for every dash before a path is given up
TURNS = np.linspace(-np.pi / 2, np.pi / 2, 257)
TURN_SHARES = (TURNS + np.sin(TURNS) * np.cos(TURNS)) / np.pi + 0.5  # distribution function of the density cos²


@dataclass(frozen=True)
class Geometry:
    """Lengths in pixels.

    Attributes:
        side: of the square image.
        dash: length of a dash.
        margin: half of the gap between dashes of a path; dashes of different paths, and those of one path that are not
            neighbours, keep twice the margin apart.
        padding: nothing reaches into a border this wide.
    """

    side: int = 32
    dash: float = 2.0
    margin: float = 1.0
    padding: float = 1.0


class Paths:
    """Dashes of `count` images, in numbered slots.

    A path has a pivot in the middle of each gap. From a pivot the dash begins a margin away in a direction of its own,
    and the next pivot lies a margin behind its end. The direction turns from dash to dash by an angle of density
    cos² on (-π/2, π/2) among the angles that leave the dash room.

    Attributes:
        ends: (count, slots, 2, 2) tail and head of each dash, as (row, column).
        pivots: (count, slots, 2) where the next dash of the path hinges.
        angles: (count, slots) direction of each dash.
        present: (count, slots) whether the dash is there.
    """

    def __init__(self, count: int, slots: int, geometry: Geometry, random: np.random.RandomState) -> None:
        self.count, self.geometry, self.random = count, geometry, random
        self.ends, self.pivots = np.zeros((count, slots, 2, 2)), np.zeros((count, slots, 2))
        self.angles, self.present = np.zeros((count, slots)), np.zeros((count, slots), dtype=bool)

    def begin(self, images: np.ndarray, slot: int, tips: np.ndarray) -> np.ndarray:
        """First dashes of a path into `slot` of the chosen images, each from one of `tips` (n, TRIES, 2).

        Returns:
            (n,) whether there was room in any of its directions, which are random.
        """
        angles = self.random.uniform(-np.pi, np.pi, tips.shape[:2])
        pivots = tips - self.geometry.margin * _direction(angles)
        return self._place(images, np.full(len(images), slot), pivots, angles, follows=False)

    def extend(self, images: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """One more dash into `slots` (n,) of the chosen images, behind that in the slot before. Returns as `begin`."""
        turns = np.interp(self.random.uniform(size=(len(images), TRIES)), TURN_SHARES, TURNS)
        pivots, angles = self.pivots[images, slots - 1], self.angles[images, slots - 1]
        return self._place(images, slots, pivots[:, None], angles[:, None] + turns, follows=True)

    def _place(
        self, images: np.ndarray, slots: np.ndarray, pivots: np.ndarray, angles: np.ndarray, follows: bool
    ) -> np.ndarray:
        g, along = self.geometry, _direction(angles)
        tails = pivots + g.margin * along
        ends = np.stack([tails, tails + g.dash * along], axis=-2)
        onward = ends[..., 1, :] + g.margin * along
        low, high = g.padding, g.side - 1 - g.padding
        # The next pivot has to be inside too: from one beyond the border no dash leads back.
        inside = ((tails >= low) & (tails <= high) & (onward >= low) & (onward <= high)).all(axis=-1)
        free = inside & self._clear(images, ends, slots - 1 if follows else None)
        placed, chosen = np.asarray(free.any(axis=1)), free.argmax(axis=1)
        rows, at, tried = images[placed], slots[placed], (placed.nonzero()[0], chosen[placed])
        self.ends[rows, at], self.pivots[rows, at], self.angles[rows, at] = ends[tried], onward[tried], angles[tried]
        self.present[rows, at] = True
        return placed

    def _clear(self, images: np.ndarray, ends: np.ndarray, last: np.ndarray | None) -> np.ndarray:
        """(n, tries) whether dashes (n, tries, 2, 2) keep their distance from all that are present but `last`.

        Measured from the ends of each to the other. Dashes that cross are found too: where they cross, an end of one
        is at most half a dash away from the other.
        """
        counts = self.present[images]
        if last is not None:
            counts[np.arange(len(images)), last] = False
        columns = counts.any(axis=0)
        if not columns.any():
            return np.ones(ends.shape[:2], dtype=bool)
        old, new = self.ends[images][:, None, columns], ends[:, :, None]
        near = np.minimum(_nearest(old, new), _nearest(new, old))
        return np.where(counts[:, None, columns], near, np.inf).min(axis=-1) >= (2 * self.geometry.margin) ** 2


def squared_distance(points: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """From points (..., 2) to the nearest point of segments (..., 2, 2), squared."""
    # By components: sums over an axis of two are what NumPy is slowest at.
    row, column = points[..., 0] - ends[..., 0, 0], points[..., 1] - ends[..., 0, 1]
    down, right = ends[..., 1, 0] - ends[..., 0, 0], ends[..., 1, 1] - ends[..., 0, 1]
    length = np.maximum(down * down + right * right, 1e-12)  # an empty slot has none
    share = np.clip((row * down + column * right) / length, 0, 1)
    row, column = row - share * down, column - share * right
    return row * row + column * column


def _nearest(points: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The smaller squared distance of two points (..., 2, 2) to segments (..., 2, 2)."""
    return np.minimum(squared_distance(points[..., 0, :], ends), squared_distance(points[..., 1, :], ends))


def _direction(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1)
