"""A fit of some mixers as arrays, for the cache, and back."""

from __future__ import annotations

from dataclasses import replace

import torch

from ssmtool.fitting import Fit
from ssmtool.pipeline.packing import packed, prefixed, unpacked, without_prefix
from ssmtool.pipeline.stages import Arrays
from ssmtool.selective.mixers import Mixer

Parts = dict[str, tuple[Mixer, ...]]


def fit_arrays(mixers: Parts, fit: Fit) -> Arrays:
    """Mixers of the runner and how well they fit, as `fit_of` takes them."""
    found = prefixed("fit", packed(fit))
    for name, parts in mixers.items():
        for k, mixer in enumerate(parts):
            tensors = {key: value for key, value in vars(mixer).items() if isinstance(value, torch.Tensor)}
            found |= prefixed(f"{name} {k}", {key: tensor.detach().cpu().numpy() for key, tensor in tensors.items()})
    return found


def fit_of(before: Parts, found: Arrays) -> tuple[Parts, Fit]:
    """Mixers like `before` with the tensors that were kept. Raises as `unpacked` what is nothing of the kind."""
    mixers = {
        name: tuple(_with(mixer, without_prefix(f"{name} {k}", found)) for k, mixer in enumerate(parts))
        for name, parts in before.items()
    }
    return mixers, unpacked(Fit, without_prefix("fit", found))


def _with(mixer: Mixer, found: Arrays) -> Mixer:
    tensors = {}
    for key, value in vars(mixer).items():
        if isinstance(value, torch.Tensor):
            if found[key].shape != tuple(value.shape):
                raise ValueError(f"{key} is not of this mixer")
            tensors[key] = torch.as_tensor(found[key]).to(value)
    return replace(mixer, **tensors)
