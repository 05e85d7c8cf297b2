"""ssmtool: a workbench for trained state-space models.

    import ssmtool

    model = ssmtool.load("model.safetensors")
    model.hsv()[0].spectrum.sigma                                     # (systems, order), descending
    done = ssmtool.compress(model, "smaller.safetensors", rank=16)    # done.layers[0].hinf_relative
    ssmtool.validate(model, ssmtool.load(done.output)).passed
    ssmtool.evaluate("smaller.safetensors", task="digits").accuracy

Everything refused is a `SsmtoolError`. Importing ssmtool is cheap: PyTorch is loaded when it is first needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ssmtool.errors import (
    CheckpointError,
    FamilyError,
    MismatchError,
    OutputError,
    ReductionError,
    SsmtoolError,
    UnstableError,
    UsageError,
)

if TYPE_CHECKING:
    from ssmtool.pipeline.compress import compress
    from ssmtool.pipeline.model import load
    from ssmtool.pipeline.validate import validate
    from ssmtool.training.evaluate import evaluate

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "FamilyError",
    "MismatchError",
    "OutputError",
    "ReductionError",
    "SsmtoolError",
    "UnstableError",
    "UsageError",
    "__version__",
    "compress",
    "evaluate",
    "load",
    "validate",
]

_HOME = {
    "compress": "ssmtool.pipeline.compress",
    "evaluate": "ssmtool.training.evaluate",
    "load": "ssmtool.pipeline.model",
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
