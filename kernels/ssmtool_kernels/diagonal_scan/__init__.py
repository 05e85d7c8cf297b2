"""y[k] = Re(C x[k]) + D u[k], x[k] = lambda x[k-1] + B u[k] for diagonal systems."""

from ssmtool_kernels.diagonal_scan.naive import diagonal_scan

__all__ = ["diagonal_scan"]
