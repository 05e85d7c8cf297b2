"""Checkpoints as bytes: resolve, read lazily, write atomically. Knows no family."""

from ssmtool.checkpoint.checkpoint import Checkpoint, open_checkpoint
from ssmtool.checkpoint.dtypes import round_to
from ssmtool.checkpoint.rewrite import Rewrite
from ssmtool.checkpoint.tensors import TensorInfo

__all__ = ["Checkpoint", "Rewrite", "TensorInfo", "open_checkpoint", "round_to"]
