"""Sequential digits: scikit-learn's 8 x 8 handwritten digits, read pixel by pixel as 64 steps of one number.

1797 images (UCI optical recognition of handwritten digits), bundled with scikit-learn, so nothing is downloaded.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

SUMMARY = "8 x 8 handwritten digits as sequences of 64 numbers, 10 classes, 360 test images"
INPUTS, LENGTH, CLASSES = 1, 64, 10
SIDE = 8
PARTS = ("train", "validation", "test")
SPLIT_SEED = 0


@lru_cache(maxsize=1)
def _parts() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Part name -> images (n, 8, 8) in [0, 1] and labels (n,); 1257 / 180 / 360 images, stratified by class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = (np.asarray(array) for array in load_digits(return_X_y=True))
    images, labels = (pixels / 16).reshape(-1, SIDE, SIDE).astype(np.float32), labels.astype(np.int64)

    def divide(chosen: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        kept, taken = train_test_split(chosen, test_size=count, stratify=labels[chosen], random_state=SPLIT_SEED)
        return np.asarray(kept), np.asarray(taken)

    rest, test = divide(np.arange(len(labels)), 360)
    train, validation = divide(rest, 180)
    chosen = {"train": train, "validation": validation, "test": test}
    return {part: (images[indices], labels[indices]) for part, indices in chosen.items()}


def load(part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences (n, 64, 1) float32 in [-1, 1] and labels (n,) int64 of one of PARTS.

    The split is fixed for good: settings and early decisions belong to "validation"; "test" is for reporting only.
    """
    images, labels = _parts()[part]
    return sequences(torch.from_numpy(images)), torch.from_numpy(labels)


def sequences(images: torch.Tensor) -> torch.Tensor:
    """Images (n, 8, 8) in [0, 1] -> (n, 64, 1) in [-1, 1], row by row."""
    return (2 * images - 1).reshape(-1, LENGTH, INPUTS)


def augment(inputs: torch.Tensor, generator: torch.Generator, strength: float = 1.0) -> torch.Tensor:
    """A slightly different handwriting: each image rotated, scaled, sheared, shifted and made noisy at random.

    At strength 1: rotation by up to 12 degrees, scale 0.88 to 1.12 per axis, shear up to 0.15, shift up to 0.8
    pixels, Gaussian noise of 0.05 in units of [-1, 1].

    Args:
        inputs: (n, 64, 1) as from `load`.
        generator: source of all randomness.
        strength: factor on all ranges; 0 returns the images up to resampling.

    Returns:
        (n, 64, 1).
    """
    images = inputs.reshape(-1, 1, SIDE, SIDE)
    count = images.shape[0]

    def spread(limit: float) -> torch.Tensor:
        return (2 * torch.rand(count, generator=generator) - 1) * limit * strength

    angle, shear = spread(math.radians(12)), spread(0.15)
    scale_x, scale_y = 1 + spread(0.12), 1 + spread(0.12)
    # affine_grid measures in half images: one pixel is 2 / SIDE.
    shift_x, shift_y = spread(1.6 / SIDE), spread(1.6 / SIDE)
    cos, sin = torch.cos(angle), torch.sin(angle)
    top = [scale_x * cos, scale_y * (shear * cos - sin), shift_x]
    bottom = [scale_x * sin, scale_y * (shear * sin + cos), shift_y]
    matrix = torch.stack([torch.stack(top, dim=-1), torch.stack(bottom, dim=-1)], dim=-2)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    # Sampling fills with 0 beyond the border, while an empty pixel is -1: shift before and after.
    moved = F.grid_sample(images + 1, grid, align_corners=False) - 1
    noise = 0.05 * strength * torch.randn(moved.shape, generator=generator)
    return (moved + noise).reshape(inputs.shape)
