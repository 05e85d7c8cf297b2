"""Causal convolution of an input with the impulse response of a system, by FFT."""

from ssmtool_kernels.convolution.fft import diagonal_convolution, kernel_convolution

__all__ = ["diagonal_convolution", "kernel_convolution"]
