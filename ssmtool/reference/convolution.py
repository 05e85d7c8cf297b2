"""The numerical pieces reference layers are made of: (e^z - 1)/z, powers and sums of modes, causal convolution."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.autograd.function import once_differentiable


def phi1(z: torch.Tensor) -> torch.Tensor:
    """(e^z - 1) / z, accurate to rounding for every complex z, and 1 at z = 0.

    e^z - 1 = expm1(x) cos y - 2 sin^2(y/2) + i e^x sin y for z = x + iy has no cancellation near z = 0, where the
    textbook form loses all digits: exactly the slow, lightly damped modes a trained layer relies on.

    Args:
        z: complex, any shape.

    Returns:
        Same shape and dtype as z.
    """
    x, y = z.real, z.imag
    numerator = torch.complex(
        torch.expm1(x) * torch.cos(y) - 2 * torch.sin(y / 2).square(), torch.exp(x) * torch.sin(y)
    )
    zero = z == 0
    # The divisor is replaced before dividing, not after: a masked 0/0 would still put NaN into the gradient.
    return torch.where(zero, torch.ones_like(z), numerator / torch.where(zero, torch.ones_like(z), z))


def powers(z: torch.Tensor, length: int) -> torch.Tensor:
    """exp(j z) for j = 0 .. length-1: the impulse responses of the modes with eigenvalue e^z.

    Each power is one exponential of its own exponent; repeated multiplication would accumulate rounding.

    Args:
        z: (...,) complex128; pass float64 even for float32 models, since j Im z reaches hundreds of radians.
        length: number of powers.

    Returns:
        (..., length) complex128.
    """
    steps = torch.arange(length, dtype=z.real.dtype, device=z.device)
    return torch.exp(z.unsqueeze(-1) * steps)


def mode_sum(weight: torch.Tensor, z: torch.Tensor, length: int) -> torch.Tensor:
    """sum over n of weight_n exp(j z_n) for j = 0 .. length-1, the impulse response of a diagonal system.

    With j = s a + b it is a product of two small matrices of powers, so that no array of all modes at all times is
    formed: memory and exponentials per mode fall from `length` to about 2 sqrt(length), at one more rounding.

    Args:
        weight, z: (..., N) complex128.
        length: number of steps.

    Returns:
        (..., length) complex128.
    """
    stride = math.isqrt(max(length - 1, 0)) + 1
    coarse = weight.unsqueeze(-1) * powers(stride * z, -(-length // stride))
    return torch.einsum("...na,...nb->...ab", coarse, powers(z, stride)).flatten(-2)[..., :length]


def causal_convolution(u: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """y[k] = sum over j = 0 .. k of kernel[j] u[k-j], along the last axis, by a zero-padded FFT.

    Args:
        u: (..., L), real or complex.
        kernel: (..., L), broadcastable against u, both real or both complex.

    Returns:
        (..., L), real if both are. Differentiable once.
    """
    length = u.shape[-1]
    if u.is_complex():
        # Twice the length: a shorter transform would wrap the end of the sequence around onto its beginning.
        spectrum = torch.fft.fft(u, 2 * length) * torch.fft.fft(kernel, 2 * length)
        return torch.fft.ifft(spectrum, 2 * length)[..., :length]
    result = _RealConvolution.apply(u, kernel)
    assert isinstance(result, torch.Tensor)
    return result


class _RealConvolution(torch.autograd.Function):
    """The real case with its own backward pass: PyTorch's goes through complex transforms of full length."""

    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        length = u.shape[-1]
        inputs, response = torch.fft.rfft(u, 2 * length), torch.fft.rfft(kernel, 2 * length)
        ctx.save_for_backward(inputs, response)
        ctx.shapes = u.shape, kernel.shape
        return torch.fft.irfft(inputs * response, 2 * length)[..., :length]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Correlations: du[k] = sum_j kernel[j] dy[k+j], dkernel[j] = sum_k u[k] dy[k+j], summed where broadcast."""
        (inputs, response), length = ctx.saved_tensors, upstream.shape[-1]
        spectrum = torch.fft.rfft(upstream, 2 * length)

        def correlated(other: torch.Tensor, shape: torch.Size) -> torch.Tensor:
            summed = (spectrum * other.conj()).sum_to_size(*shape[:-1], spectrum.shape[-1])
            return torch.fft.irfft(summed, 2 * length)[..., :length]

        return (
            correlated(response, ctx.shapes[0]) if ctx.needs_input_grad[0] else None,
            correlated(inputs, ctx.shapes[1]) if ctx.needs_input_grad[1] else None,
        )
