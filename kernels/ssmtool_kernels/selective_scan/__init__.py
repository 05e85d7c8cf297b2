"""The selective scan of Mamba-1: diagonal, real, with a decay per channel and state that depends on the input."""

from ssmtool_kernels.selective_scan.naive import selective_scan_naive
from ssmtool_kernels.selective_scan.op import selective_scan, selective_step
from ssmtool_kernels.selective_scan.stepwise import selective_scan_stepwise

__all__ = ["selective_scan", "selective_scan_naive", "selective_scan_stepwise", "selective_step"]
