"""h[t] = a[t] h[t-1] + v[t]: the diagonal scan whose decay changes with time, real or complex."""

from ssmtool_kernels.varying_scan.op import varying_scan, varying_step

__all__ = ["varying_scan", "varying_step"]
