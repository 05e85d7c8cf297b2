"""The state-space duality scan of Mamba-2: one decay per head and step, a matrix state per head."""

from ssmtool_kernels.ssd.chunked import ssd_chunked
from ssmtool_kernels.ssd.naive import ssd_naive, ssd_step_naive
from ssmtool_kernels.ssd.op import ssd
from ssmtool_kernels.ssd.step import ssd_step

__all__ = ["ssd", "ssd_chunked", "ssd_naive", "ssd_step", "ssd_step_naive"]
