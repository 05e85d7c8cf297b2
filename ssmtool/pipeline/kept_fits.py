"""A fit of some mixers as arrays, for the cache, and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ssmtool.fitting import Fit
from ssmtool.pipeline.stages import Arrays
from ssmtool.selective.mixers import Mixer

Parts = dict[str, tuple[Mixer, ...]]


def fit_arrays(mixers: Parts, fit: Fit) -> Arrays:
    """Mixers of the runner and how well they fit, as `kept_fit` takes them."""
    found = {"fit": np.array([fit.before, fit.after, fit.steps], dtype=np.float64)}
    for name, parts in mixers.items():
        for k, mixer in enumerate(parts):
            tensors = {key: value for key, value in vars(mixer).items() if isinstance(value, torch.Tensor)}
            found |= {f"{name} {k} {key}": tensor.detach().cpu().numpy() for key, tensor in tensors.items()}
    return found


def kept_fit(before: Parts, found: Arrays | None) -> tuple[Parts, Fit] | None:
    """Mixers like `before` with the tensors that were kept; None where these are not of such mixers."""
    if found is None:
        return None
    mixers: Parts = {}
    try:
        for name, parts in before.items():
            mixers[name] = tuple(_with(mixer, found, f"{name} {k} ") for k, mixer in enumerate(parts))
        first, last, steps = found["fit"].tolist()
        return mixers, Fit(first, last, int(steps))
    except (KeyError, ValueError):
        return None


def _with(mixer: Mixer, found: Arrays, start: str) -> Mixer:
    tensors = {}
    for key, value in vars(mixer).items():
        if isinstance(value, torch.Tensor):
            array = found[start + key]
            if array.shape != tuple(value.shape):
                raise ValueError(f"{key} is not of this mixer")
            tensors[key] = torch.as_tensor(array).to(value)
    return replace(mixer, **tensors)
