"""The state-space duality scan of Mamba-2: one decay per head and step, a matrix state per head."""

from ssmtool_kernels.ssd.chunked import ssd_chunked
from ssmtool_kernels.ssd.naive import ssd

__all__ = ["ssd", "ssd_chunked"]
