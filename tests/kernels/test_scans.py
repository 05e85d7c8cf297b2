"""The scans against a plain loop in numpy, and against each other."""

import numpy as np
import pytest
import torch

from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.norms import to_dense
from ssmtool.lti.systems import DiagonalSystem
from ssmtool_kernels.convolution import diagonal_convolution, kernel_convolution
from ssmtool_kernels.dense_scan import dense_scan
from ssmtool_kernels.diagonal_scan import diagonal_scan


def example(inputs: int, outputs: int, slots: int = 5, systems: int = 3) -> DiagonalSystem:
    rng = np.random.default_rng(inputs + 10 * outputs)
    a = -np.exp(rng.uniform(-6, 0, (systems, slots))) + 1j * rng.uniform(-4, 4, (systems, slots))

    def gaussian(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)

    B, C = gaussian(systems, slots, inputs), gaussian(systems, outputs, slots)
    return DiagonalSystem(a, B, C, rng.standard_normal((systems, outputs, inputs)))


def as_tensors(system: DiagonalSystem) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(x) for x in (system.a, system.B, system.C, system.D))


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (1, 3), (4, 2)])
def test_diagonal_scan_is_the_recurrence(inputs: int, outputs: int) -> None:
    system = example(inputs, outputs)
    a, B, C, D = as_tensors(system)
    u = np.random.default_rng(0).standard_normal((3, 37, inputs))
    y, last = diagonal_scan(torch.exp(a), B, C, D, torch.from_numpy(u))
    x = np.zeros((3, 5), dtype=complex)
    for k in range(37):
        x = np.exp(system.a) * x + np.einsum("snm,sm->sn", system.B, u[:, k])
        expected = np.einsum("spn,sn->sp", system.C, x).real + np.einsum("spm,sm->sp", system.D, u[:, k])
        np.testing.assert_allclose(y[:, k], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(last, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (1, 3), (4, 2)])
def test_convolutions_and_dense_scan_agree_with_the_scan(inputs: int, outputs: int) -> None:
    system = example(inputs, outputs)
    a, B, C, D = as_tensors(system)
    u = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 64, inputs)))
    y, _ = diagonal_scan(torch.exp(a), B, C, D, u)
    tolerance = 1e-11 * float(y.abs().max())
    dense = to_dense(system)
    dense_A, dense_B, dense_C, dense_D = (torch.from_numpy(x) for x in (dense.A, dense.B, dense.C, dense.D))
    others = {
        "modes": diagonal_convolution(a, B, C, D, u),
        "kernel": kernel_convolution(torch.from_numpy(impulse_response(system, 64)), u),
        "dense": dense_scan(dense_A, dense_B, dense_C, dense_D, u)[0],
    }
    for name, other in others.items():
        assert float((other - y).abs().max()) <= tolerance, name


def test_a_scan_in_two_pieces_is_the_scan_of_the_whole() -> None:
    system = example(2, 2)
    a, B, C, D = as_tensors(system)
    lam = torch.exp(a)
    u = torch.from_numpy(np.random.default_rng(2).standard_normal((3, 50, 2)))
    whole, end = diagonal_scan(lam, B, C, D, u)
    first, middle = diagonal_scan(lam, B, C, D, u[:, :19])
    second, last = diagonal_scan(lam, B, C, D, u[:, 19:], middle)
    assert torch.equal(torch.cat([first, second], 1), whole) or torch.allclose(
        torch.cat([first, second], 1), whole, rtol=1e-13, atol=1e-13
    )
    assert torch.allclose(last, end, rtol=1e-13, atol=1e-13)
    dense = to_dense(system)
    A, B, C, D = (torch.from_numpy(x) for x in (dense.A, dense.B, dense.C, dense.D))
    whole, end = dense_scan(A, B, C, D, u)
    _, middle = dense_scan(A, B, C, D, u[:, :19])
    _, last = dense_scan(A, B, C, D, u[:, 19:], middle)
    assert torch.allclose(last, end, rtol=1e-13, atol=1e-13)
