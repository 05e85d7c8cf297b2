"""Running projected checkpoints in other people's code; needs torch, and transformers only for its own models."""

from ssmtool.runtime.projected_mamba2 import patch

__all__ = ["patch"]
