"""K[l] = Re sum_n c_n lam_n^l: the convolution kernel of a diagonal system, and sums over powers as matrix products."""

from ssmtool_kernels.s4d_kernel.op import s4d_kernel

__all__ = ["s4d_kernel"]
