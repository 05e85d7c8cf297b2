"""Causal convolutions: with the impulse response of a system by FFT, whole or in chunks, and with short kernels."""

from ssmtool_kernels.convolution.fft import diagonal_convolution, kernel_convolution
from ssmtool_kernels.convolution.overlap import fft_convolution
from ssmtool_kernels.convolution.short import short_convolution, short_convolution_step
from ssmtool_kernels.convolution.state_passing import state_passing_convolution

__all__ = [
    "diagonal_convolution",
    "fft_convolution",
    "kernel_convolution",
    "short_convolution",
    "short_convolution_step",
    "state_passing_convolution",
]
