"""y[k] = C x[k] + D u[k], x[k] = A x[k-1] + B u[k] for dense real systems."""

from ssmtool_kernels.dense_scan.naive import dense_scan

__all__ = ["dense_scan"]
