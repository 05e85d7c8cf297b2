"""Pathfinder: do the two dots lie on one dashed path? Images of 32 x 32 pixels, read row by row as 1024 numbers.

Generated to the specification of Linsley et al. (Learning long-range spatial dependencies with horizontal gated
recurrent units, NeurIPS 2018) with the parameters of the Long Range Arena's 32 x 32 version (Tay et al., ICLR 2021):
two paths of 14 dashes that start near the middle, 7 pixels apart; 5 distracting paths of 4 dashes; dashes of 2 pixels
with gaps of 2, turning from one to the next with the density cos²; a dot of radius 1.5 at the beginning of one of the
two long paths, and one at the end of the same path (class 1) or of the other one (class 0).

Drawn in our own way: distances between dashes are measured, not looked up in a mask of pixels, and lines are smoothed
by their distance to the centre of a pixel. Half of each part is of either class, in alternation. Random numbers are
those of NumPy's RandomState, which never change; sines and cosines are the platform's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch

from ssmtool.errors import UsageError
from ssmtool.training.tasks._pathfinder_paths import TRIES, Geometry, Paths, squared_distance

SUMMARY = "whether two dots lie on one dashed path, images of 32 x 32 as 1024 numbers, 2 classes, generated"
INPUTS, LENGTH, CLASSES = 1, 1024, 2
PARTS = ("train", "validation", "test")
OPTIONS = {
    "train": 160_000,
    "validation": 20_000,
    "test": 20_000,
    "dashes": 14,
    "distractors": 5,
    "distractor_dashes": 4,
    "seed": 0,
}
RECIPE = {"width": 128, "depth": 6, "epochs": 60, "batch": 64, "dropout": 0.0, "rate": 2e-3, "state_rate": 1e-3}
GEOMETRY = Geometry()
SEED_DISTANCE, DOT_RADIUS = 7.0, 1.5
CONTRAST = 0.75  # of dashes; dots are 1
CHUNK, RETRIES, TURNS_PER_DASH = 256, 4, 12


def check(options: Mapping[str, int]) -> None:
    """Raises UsageError for numbers that make no images."""
    for name, least in (("train", 1), ("validation", 1), ("test", 1), ("dashes", 2), ("distractor_dashes", 1)):
        if options[name] < least:
            raise UsageError(f"option {name} of task pathfinder is {options[name]}", remedy=f"Give at least {least}")
    if options["dashes"] > 16:
        raise UsageError("two paths of more than 16 dashes hardly fit an image", remedy="Give dashes=16 or fewer")


def load(part: str, options: Mapping[str, int] = OPTIONS) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences (n, 1024, 1) float32 in [-1, 1] and labels (n,) int64, 1 where the dots are connected."""
    images, labels = images_of(part, options)
    sequences = torch.from_numpy(images.reshape(-1, LENGTH, INPUTS)).float()
    return sequences.div_(127.5).sub_(1), torch.from_numpy(labels)


def images_of(part: str, options: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32) uint8 and labels (n,) int64."""
    return _images(part, tuple(sorted(options.items())))


@lru_cache(maxsize=3)
def _images(part: str, options: tuple[tuple[str, int], ...]) -> tuple[np.ndarray, np.ndarray]:
    given = dict(options)
    random, found, missing = np.random.RandomState([given["seed"], PARTS.index(part)]), [], given[part]
    while missing > 0:
        found.append(_chunk(given, random)[:missing])
        missing -= len(found[-1])
    drawn = np.concatenate(found)
    # Every image comes with both pairs of dots; the position decides which is kept.
    labels = np.arange(given[part]) % CLASSES
    return drawn[np.arange(given[part]), labels], labels.astype(np.int64)


def _chunk(options: Mapping[str, int], random: np.random.RandomState) -> np.ndarray:
    """(n, 2, 32, 32) uint8: images with unconnected and with connected dots; n varies, as not every try succeeds."""
    dashes, short = options["dashes"], options["distractor_dashes"]
    paths = Paths(CHUNK, 2 * dashes + options["distractors"] * short, GEOMETRY, random)
    complete = _two_paths(paths, dashes)
    for number in range(options["distractors"]):
        _distract(paths, complete, 2 * dashes + number * short, short)
    tips = np.stack([paths.ends[:, [0, dashes], 0], paths.ends[:, [dashes - 1, 2 * dashes - 1], 1]], axis=2)
    return _draw(paths.ends[complete], paths.present[complete], tips[complete], random)


def _two_paths(paths: Paths, dashes: int) -> np.ndarray:
    """Grow the long paths into the slots from 0 and from `dashes` on. Returns the images that got both.

    The shorter one grows; where it has no room, it loses its last one to three dashes and tries again.
    """
    random, every = paths.random, np.arange(paths.count)
    first = random.uniform(2 * SEED_DISTANCE, GEOMETRY.side - 2 * SEED_DISTANCE, (paths.count, 1, 2))
    around = random.uniform(-np.pi, np.pi, (paths.count, TRIES))
    second = first + SEED_DISTANCE * np.stack([np.sin(around), np.cos(around)], axis=-1)
    begun = paths.begin(every, 0, np.repeat(first, TRIES, axis=1)) & paths.begin(every, dashes, second)
    lengths = np.ones((paths.count, 2), dtype=int)
    for _ in range(TURNS_PER_DASH * dashes):
        images = (begun & (lengths.min(axis=1) < dashes)).nonzero()[0]
        path = lengths[images].argmin(axis=1)
        grown = paths.extend(images, path * dashes + lengths[images, path])
        back = random.randint(1, 4, len(images))
        lengths[images, path] = np.maximum(lengths[images, path] + np.where(grown, 1, -back), 1)
        inside = np.arange(dashes) < lengths[:, :, None]
        paths.present[:, : 2 * dashes] = inside.reshape(paths.count, -1)
    return (begun & (lengths.min(axis=1) == dashes)).nonzero()[0]


def _distract(paths: Paths, images: np.ndarray, slot: int, dashes: int) -> None:
    """One more short path into the slots from `slot` on; images in which a few tries fail do without."""
    for _ in range(RETRIES):
        growing = images[paths.begin(images, slot, paths.random.uniform(0, GEOMETRY.side, (len(images), TRIES, 2)))]
        for number in range(1, dashes):
            growing = growing[paths.extend(growing, np.full(len(growing), slot + number))]
        images = np.setdiff1d(images, growing)
        paths.present[images, slot : slot + dashes] = False


def _draw(ends: np.ndarray, present: np.ndarray, tips: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """(n, 2, 32, 32) uint8 from dashes (n, dashes, 2, 2) and tips (n, path, begin or end, 2)."""
    axis = np.arange(GEOMETRY.side, dtype=float)
    pixels = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    images = np.zeros((len(ends), 1, *pixels.shape[:2]))
    for dash in range(ends.shape[1]):
        away = np.sqrt(squared_distance(pixels, ends[:, dash, None, None]))
        shade = CONTRAST * np.clip(1 - away, 0, 1) * present[:, dash, None, None]
        images[:, 0] = np.maximum(images[:, 0], shade)
    rows, path = np.arange(len(ends)), random.randint(0, 2, len(ends))
    begin = _dot(pixels, tips[rows, path, 0])
    others = np.stack([_dot(pixels, tips[rows, 1 - path, 1]), _dot(pixels, tips[rows, path, 1])], axis=1)
    return np.rint(255 * np.maximum(images, np.maximum(begin[:, None], others))).astype(np.uint8)


def _dot(pixels: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(n, 32, 32) discs around centres (n, 2)."""
    away = np.sqrt(np.square(pixels - centres[:, None, None]).sum(axis=-1))
    return np.clip(DOT_RADIUS + 0.5 - away, 0, 1)
