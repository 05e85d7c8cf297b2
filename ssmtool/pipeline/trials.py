"""A model with some layers cut to other ranks, run on calibration inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssmtool.cache import Cache
from ssmtool.errors import CalibrationError
from ssmtool.lti.devices import device_kind
from ssmtool.pipeline.allocation import AllocateOptions
from ssmtool.pipeline.cuts import Cuts
from ssmtool.pipeline.refine import distance, run
from ssmtool.pipeline.stages import Stages
from ssmtool.pipeline.workbench import Workbench

_BATCH = 128  # sequences at a time


class Trials:
    """What a model does with some of its layers cut.

    Args:
        bench: the original and its inputs.
        cuts: its layers by rank.
        options: labels and kind of outputs.
        cache: where the numbers of reference models are kept, and found again. What a user's own code (`bench.build`)
            computes depends on files nobody lists, so that nothing is kept of it.

    Raises:
        CalibrationError: labels that do not fit the outputs.
        CheckpointError: the checkpoint is not what it was when it was opened.
    """

    def __init__(self, bench: Workbench, cuts: Cuts, options: AllocateOptions, cache: Cache | None = None) -> None:
        self.bench, self.cuts, self.layers = bench, cuts, cuts.layers
        self.wanted = run(bench.original, bench.data, _BATCH)
        self.labels = None if options.labels is None else _fitting(options.labels, self.wanted)
        self.divergence = options.outputs == "classes" or self.labels is not None
        self.variance = None if self.divergence else self.wanted.double().var().item()
        code = ("reference", device_kind(cuts.device)) if bench.build is None else None
        judged = (bench.digest, options.labels, self.divergence)
        self._stages = Stages(cache, code, (bench.model,), judged, vars(cuts.how))

    def outputs(self, ranks: Mapping[str, np.ndarray], chosen: slice) -> Tensor:
        """The model's outputs on the chosen sequences with these layers cut and all others whole."""
        named = {layer.name: layer for layer in self.layers}
        module = self.bench.module({name: self.cuts.tensors(named[name], r) for name, r in ranks.items()})
        return run(module, self.bench.data[chosen], _BATCH)

    def error(self, ranks: Mapping[str, np.ndarray], chosen: slice) -> float:
        """Divergence or relative mean square of the outputs from the original's."""

        def measured() -> tuple[float, ...]:
            out = self.outputs(ranks, chosen)
            return (distance(out.double(), self.wanted[chosen].double(), self.variance).item(),)

        (error,) = self._known("trial error", 1, ranks, chosen, measured)
        return error

    def score(self, ranks: Mapping[str, np.ndarray], chosen: slice) -> tuple[float, float | None]:
        """What judges: (cross-entropy, accuracy) with labels, else (error, agreement with the original or None)."""

        def measured() -> tuple[float, ...]:
            out, wanted = self.outputs(ranks, chosen).double(), self.wanted[chosen].double()
            if self.labels is not None:
                labels = self.labels[chosen]
                right = (out.argmax(-1) == labels).double().mean().item()
                return F.cross_entropy(out.flatten(0, -2), labels.flatten()).item(), right
            lost = distance(out, wanted, self.variance).item()
            return lost, (out.argmax(-1) == wanted.argmax(-1)).double().mean().item()

        loss, right = self._known("trial score", 2, ranks, chosen, measured)
        return loss, right if self.divergence else None

    def _known(
        self,
        name: str,
        count: int,
        ranks: Mapping[str, np.ndarray],
        chosen: slice,
        measured: Callable[[], tuple[float, ...]],
    ) -> tuple[float, ...]:
        """So many numbers that were kept, or that are measured and kept."""
        cut = {layer: np.asarray(each, dtype=np.int64) for layer, each in ranks.items()}
        stage = self._stages.stage(name, cut, (chosen.start, chosen.stop, chosen.step))
        kept = stage.recall(lambda arrays: tuple(arrays["numbers"].reshape(count).tolist()))
        if kept is not None:
            return kept
        found = measured()
        stage.keep(lambda: {"numbers": np.array(found)})
        return found

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
