"""Every reference layer against its defining recurrence, written out step by step in complex128."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch

from ssmtool.reference.convolution import causal_convolution, mode_sum, phi1, powers
from ssmtool.reference.layouts._contract import Sizes, StateSpace
from ssmtool.reference.layouts.s4d import S4D, S4DKernel
from ssmtool.reference.layouts.s5 import hippo_normal
from ssmtool.reference.model import create, layouts

LENGTH, WIDTH, SLOTS = 40, 6, 8


def s4d_recurrence(t: dict[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    dt = np.exp(t["kernel.log_dt"])[:, None]
    lam = -np.exp(t["kernel.log_A_real"]) + 1j * t["kernel.A_imag"]
    C = t["kernel.C"][..., 0] + 1j * t["kernel.C"][..., 1]
    x, rows = np.zeros(lam.shape, complex), []
    for row in u:
        x = np.exp(dt * lam) * x + (np.exp(dt * lam) - 1) / lam * row[:, None]
        rows.append(2 * (C * x).sum(axis=1).real + t["D"] * row)
    return np.array(rows)


def s5_recurrence(t: dict[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    dt, lam = np.exp(t["log_step"][:, 0]), t["Lambda_re"] + 1j * t["Lambda_im"]
    B, C = t["B"][..., 0] + 1j * t["B"][..., 1], t["C"][..., 0] + 1j * t["C"][..., 1]
    x, rows = np.zeros(lam.shape, complex), []
    for row in u:
        x = np.exp(dt * lam) * x + ((np.exp(dt * lam) - 1) / lam)[:, None] * B @ row
        rows.append(2 * (C @ x).real + t["D"] * row)
    return np.array(rows)


def lru_recurrence(t: dict[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    lam = np.exp(-np.exp(t["nu_log"]) + 1j * np.exp(t["theta_log"]))
    B, C = np.exp(t["gamma_log"])[:, None] * (t["B_re"] + 1j * t["B_im"]), t["C_re"] + 1j * t["C_im"]
    x, rows = np.zeros(lam.shape, complex), []
    for row in u:
        x = lam * x + B @ row
        rows.append((C @ x).real + t["D"] * row)
    return np.array(rows)


def hankelreg_recurrence(t: dict[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    """The 2x2 blocks themselves, in real numbers."""
    angle, rho = (np.tanh(t["rotation.angles"]) + 1) * np.pi / 2, (np.tanh(t["rotation.retentions"]) + 1) / 2
    block = rho * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    x, rows = np.zeros((len(rho), 2)), []
    for row in u:
        x = np.einsum("ijn,nj->ni", block, x) + t["sys_in"] @ row
        rows.append(np.einsum("hni,ni->h", t["sys_out"], x) + t["sys_feed"] * row)
    return np.array(rows)


RECURRENCES = {
    "s4d": s4d_recurrence,
    "s5": s5_recurrence,
    "lru": lru_recurrence,
    "hankelreg": hankelreg_recurrence,
}


def layer_of(layout: str) -> StateSpace:
    return create(layout, Sizes(1, WIDTH, 3, (SLOTS,)), seed=1).double().state_spaces()[0]


def test_every_layout_has_a_recurrence_here() -> None:
    assert set(RECURRENCES) == set(layouts())


@pytest.mark.parametrize("layout", RECURRENCES)
def test_layer_is_its_recurrence(layout: str) -> None:
    layer = layer_of(layout)
    u = np.random.default_rng(0).normal(size=(LENGTH, WIDTH))
    expected = RECURRENCES[layout]({name: p.detach().numpy() for name, p in layer.named_parameters()}, u)
    found = layer.mix(torch.from_numpy(u)[None])[0].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("layout", RECURRENCES)
def test_layer_is_causal_and_differentiable(layout: str) -> None:
    layer = layer_of(layout)
    u = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    later = u.clone()
    later[:, LENGTH // 2 :] += 1
    difference = (layer.mix(u) - layer.mix(later))[:, : LENGTH // 2].abs().max().item()
    assert difference < 1e-12
    layer.mix(u).square().sum().backward()
    for name, parameter in layer.named_parameters():
        if name.startswith("output_linear"):
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_the_family_reads_the_hankelreg_layer() -> None:
    """Its canonical system has the recurrence's impulse response: C exp(a k) B, D apart."""
    from ssmtool.checkpoint import TensorInfo
    from ssmtool.families import hankelreg

    t = {f"layers.0.sequence_processor.{n}": p.detach().numpy() for n, p in layer_of("hankelreg").named_parameters()}
    (layer,) = hankelreg.layers({name: TensorInfo(array.shape, "F64") for name, array in t.items()}, None)
    system = hankelreg.to_system(layer, {leaf: t[name] for leaf, name in layer.tensors.items()})
    impulse = np.zeros((LENGTH, WIDTH))
    impulse[0, 2] = 1
    powers = np.exp(system.a[0][:, None] * np.arange(LENGTH))
    expected = np.einsum("pn,nk,n->kp", system.C[0], powers, system.B[0][:, 2]).real
    expected[0] += np.asarray(system.D)[0, :, 2]
    found = hankelreg_recurrence({name.split("processor.")[1]: array for name, array in t.items()}, impulse)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_hankelreg_starts_on_the_ring() -> None:
    layer = create("hankelreg", Sizes(1, 4, 2, (500,)), seed=0).state_spaces()[0]
    radius = layer.get_submodule("rotation")().real.exp()
    assert 0.9 - 1e-6 < radius.min() < 0.91  # half of the area lies beyond 0.951
    assert abs(radius.square().mean().item() - (0.9**2 + 0.999**2) / 2) < 0.01
    assert radius.max() < 0.999 + 1e-6


def test_float32_layer_keeps_the_phase_of_a_fast_mode() -> None:
    kernel = S4DKernel(WIDTH, SLOTS)
    with torch.no_grad():
        kernel.log_dt.fill_(-2.0)  # 0.14: the fastest mode then turns by more than a thousand radians in 400 steps
        rounded = kernel(400)
        exact = kernel.double()(400)
    assert (rounded - exact).abs().max().item() < 1e-6 * exact.abs().max().item()


@pytest.mark.parametrize("z", [1e-9 + 1e-9j, -1e-6 + 3e-4j, -0.3 + 2j, -5 - 40j, 1e-3j, -1e-12 + 0j])
def test_phi1_against_mpmath(z: complex) -> None:
    with mpmath.workdps(50):
        exact = complex(mpmath.expm1(mpmath.mpmathify(z)) / mpmath.mpmathify(z))
    found = phi1(torch.tensor(z, dtype=torch.complex128)).item()
    assert abs(found - exact) < 1e-14 * abs(exact)


def test_phi1_at_zero_has_value_and_gradient() -> None:
    z = torch.zeros(1, dtype=torch.complex128, requires_grad=True)
    value = phi1(z)
    value.real.sum().backward()
    assert value.item() == 1
    assert z.grad is not None
    assert torch.isfinite(torch.view_as_real(z.grad)).all()


def test_convolution_is_the_sum_it_claims_to_be() -> None:
    rng = np.random.default_rng(2)
    for kind in (np.float64, np.complex128):
        u, kernel = (rng.normal(size=(3, 33)).astype(kind) for _ in range(2))
        expected = np.stack([np.convolve(a, b)[:33] for a, b in zip(u, kernel, strict=True)])
        found = causal_convolution(torch.from_numpy(u), torch.from_numpy(kernel)).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-13)


def test_convolution_has_the_gradient_of_its_sum() -> None:
    """Finite differences, with a kernel that is shared by a batch, and one that is not."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)

    for u, kernel in ((normal(2, 3, 7), normal(3, 7)), (normal(3, 5), normal(3, 5)), (normal(1, 4), normal(2, 1, 4))):
        torch.autograd.gradcheck(causal_convolution, (u, kernel))
    fixed = normal(3, 7).detach()
    torch.autograd.gradcheck(lambda u: causal_convolution(u, fixed), (normal(2, 3, 7),))


def test_the_s4d_layer_is_the_public_one_after_its_mixing() -> None:
    """GELU, convolution of length 1, gated linear unit, channels before time as in the original."""
    layer = create("s4d", Sizes(1, WIDTH, 3, (SLOTS,)), seed=1).double().state_spaces()[0]
    assert isinstance(layer, S4D)
    u = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    channels = torch.nn.functional.gelu(layer.mix(u)).transpose(-1, -2)
    torch.testing.assert_close(layer(u), layer.output_linear(channels).transpose(-1, -2), rtol=1e-12, atol=1e-14)


def test_powers_start_at_one() -> None:
    z = torch.tensor([-0.1 + 2j], dtype=torch.complex128)
    np.testing.assert_allclose(powers(z, 5)[0].numpy(), np.exp(z.numpy() * np.arange(5)), rtol=1e-14)


@pytest.mark.parametrize("length", [1, 2, 3, 16, 17, 64])
def test_mode_sum_is_the_sum_of_powers(length: int) -> None:
    rng = np.random.default_rng(length)
    weight, z = rng.normal(size=(2, 3, 5)) + 1j * rng.normal(size=(2, 3, 5))
    z = -0.01 * np.abs(z.real) + 1j * z.imag
    expected = np.einsum("hn,hnl->hl", weight, np.exp(z[..., None] * np.arange(length)))
    found = mode_sum(torch.from_numpy(weight), torch.from_numpy(z), length).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_hippo_normal_diagonalises_the_normal_part() -> None:
    order = 16
    n = np.arange(order)
    legs = -np.tril(np.sqrt(np.outer(2 * n + 1, 2 * n + 1)), -1) - np.diag(n + 1)
    normal = legs + np.sqrt(np.outer(n + 0.5, n + 0.5))
    eigenvalues, vectors = (tensor.numpy() for tensor in hippo_normal(order))
    np.testing.assert_allclose(normal @ vectors, vectors * eigenvalues, atol=1e-12 * np.abs(eigenvalues).max())
    np.testing.assert_allclose(vectors.conj().T @ vectors, np.eye(order // 2), atol=1e-12)
    assert (np.imag(eigenvalues) < 0).all()
