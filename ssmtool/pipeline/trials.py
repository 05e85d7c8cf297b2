"""A model with some layers cut to other ranks, run on calibration inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssmtool.errors import CalibrationError
from ssmtool.pipeline.allocation import AllocateOptions
from ssmtool.pipeline.cuts import Cuts
from ssmtool.pipeline.refine import distance, run
from ssmtool.pipeline.workbench import Workbench

_BATCH = 128  # sequences at a time


class Trials:
    """What a model does with some of its layers cut.

    Args:
        bench: the original and its inputs.
        cuts: its layers by rank.
        options: labels and kind of outputs.

    Raises:
        CalibrationError: labels that do not fit the outputs.
    """

    def __init__(self, bench: Workbench, cuts: Cuts, options: AllocateOptions) -> None:
        self.bench, self.cuts, self.layers = bench, cuts, cuts.layers
        self.wanted = run(bench.original, bench.data, _BATCH)
        self.labels = None if options.labels is None else _fitting(options.labels, self.wanted)
        self.divergence = options.outputs == "classes" or self.labels is not None
        self.variance = None if self.divergence else self.wanted.double().var().item()

    def outputs(self, ranks: Mapping[str, np.ndarray], chosen: slice) -> Tensor:
        """The model's outputs on the chosen sequences with these layers cut and all others whole."""
        named = {layer.name: layer for layer in self.layers}
        module = self.bench.module({name: self.cuts.tensors(named[name], r) for name, r in ranks.items()})
        return run(module, self.bench.data[chosen], _BATCH)

    def error(self, ranks: Mapping[str, np.ndarray], chosen: slice) -> float:
        """Divergence or relative mean square of the outputs from the original's."""
        out = self.outputs(ranks, chosen)
        return distance(out.double(), self.wanted[chosen].double(), self.variance).item()

    def score(self, ranks: Mapping[str, np.ndarray], chosen: slice) -> tuple[float, float | None]:
        """What judges: (cross-entropy, accuracy) with labels, else (error, agreement with the original or None)."""
        out, wanted = self.outputs(ranks, chosen).double(), self.wanted[chosen].double()
        if self.labels is not None:
            labels = self.labels[chosen]
            right = (out.argmax(-1) == labels).double().mean().item()
            return F.cross_entropy(out.flatten(0, -2), labels.flatten()).item(), right
        lost = distance(out, wanted, self.variance).item()
        same = (out.argmax(-1) == wanted.argmax(-1)).double().mean().item()
        return lost, same if self.divergence else None

    @property
    def measure(self) -> str:
        """What `score` returns first."""
        if self.labels is not None:
            return "cross-entropy"
        return "divergence" if self.divergence else "mean square"


def _fitting(labels: np.ndarray, outputs: Tensor) -> Tensor:
    """The labels as a tensor. Raises CalibrationError where the model's outputs have no place for them."""
    found = torch.as_tensor(labels.astype(np.int64))
    if found.shape != outputs.shape[:-1]:
        raise CalibrationError(
            f"labels of shape {tuple(found.shape)} for outputs of shape {tuple(outputs.shape)}",
            remedy="Give one label per distribution that the model returns",
        )
    classes = outputs.shape[-1]
    if bool(((found < 0) | (found >= classes)).any()):
        raise CalibrationError(
            f"the labels go from {int(found.min())} to {int(found.max())}, the model has classes 0 to {classes - 1}"
        )
    return found
