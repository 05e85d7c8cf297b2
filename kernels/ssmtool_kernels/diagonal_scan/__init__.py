"""y[t] = Re(C x[t]) + D u[t], x[t] = lam x[t-1] + B u[t] for diagonal systems."""

from ssmtool_kernels.diagonal_scan.naive import diagonal_step
from ssmtool_kernels.diagonal_scan.op import diagonal_scan

__all__ = ["diagonal_scan", "diagonal_step"]
