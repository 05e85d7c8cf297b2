"""x[t] = A x[t-1] + v[t] with real 2 x 2 blocks that are constant in time."""

from ssmtool_kernels.block_scan.naive import block_step
from ssmtool_kernels.block_scan.op import block_scan

__all__ = ["block_scan", "block_step"]
