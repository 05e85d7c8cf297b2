"""ssmtool: a workbench for trained state-space models.

    import ssmtool

    model = ssmtool.load("model.safetensors")
    model.hsv()[0].spectrum.sigma                                     # (systems, order), descending
    done = ssmtool.compress(model, "smaller.safetensors", rank=16)    # done.layers[0].hinf_relative
    ssmtool.validate(model, ssmtool.load(done.output)).passed
    ssmtool.evaluate("smaller.safetensors", task="digits").accuracy

A reduced model is fitted to the original on inputs without labels (docs/refine.md), in place, as PyTorch modules:

    options = ssmtool.RefineOptions(steps=300, outputs="classes")
    ssmtool.refine(original, reduced, inputs, options=options).outputs.after

and for selective models, which are measured on tokens (docs/selective.md):

    model = ssmtool.load("mamba2-370m")
    runner = ssmtool.open_runner(model)
    tokens = ssmtool.read_tokens(ssmtool.TokenSource(file="calibration.npy"), model, runner)
    ssmtool.calibrated_hsv(model, runner, tokens).layers[0].spectra[0].errors      # (N + 1,)
    ssmtool.compress_selective(model, runner, tokens, "smaller", rank=32)

Everything refused is a `SsmtoolError`. Importing ssmtool is cheap: PyTorch is loaded when it is first needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ssmtool.errors import (
    CalibrationError,
    CheckpointError,
    FamilyError,
    MismatchError,
    OutputError,
    ReductionError,
    SsmtoolError,
    UnstableError,
    UsageError,
)
from ssmtool.version import __version__

if TYPE_CHECKING:
    from ssmtool.pipeline.compress import compress
    from ssmtool.pipeline.model import load
    from ssmtool.pipeline.refine import RefineOptions, refine
    from ssmtool.pipeline.runner import open_runner
    from ssmtool.pipeline.selective_compress import compress_selective
    from ssmtool.pipeline.selective_hsv import calibrated_hsv
    from ssmtool.pipeline.tokens import TokenSource, read_tokens
    from ssmtool.pipeline.validate import validate
    from ssmtool.selective.refit import RefitOptions
    from ssmtool.training.evaluate import evaluate

__all__ = [
    "CalibrationError",
    "CheckpointError",
    "FamilyError",
    "MismatchError",
    "OutputError",
    "ReductionError",
    "RefineOptions",
    "RefitOptions",
    "SsmtoolError",
    "TokenSource",
    "UnstableError",
    "UsageError",
    "__version__",
    "calibrated_hsv",
    "compress",
    "compress_selective",
    "evaluate",
    "load",
    "open_runner",
    "read_tokens",
    "refine",
    "validate",
]

_HOME = {
    "RefineOptions": "ssmtool.pipeline.refine",
    "RefitOptions": "ssmtool.selective.refit",
    "TokenSource": "ssmtool.pipeline.tokens",
    "calibrated_hsv": "ssmtool.pipeline.selective_hsv",
    "compress": "ssmtool.pipeline.compress",
    "compress_selective": "ssmtool.pipeline.selective_compress",
    "evaluate": "ssmtool.training.evaluate",
    "load": "ssmtool.pipeline.model",
    "open_runner": "ssmtool.pipeline.runner",
    "read_tokens": "ssmtool.pipeline.tokens",
    "refine": "ssmtool.pipeline.refine",
    "validate": "ssmtool.pipeline.validate",
}


def __getattr__(name: str) -> Any:
    """The functions of the public API, imported when first used (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
