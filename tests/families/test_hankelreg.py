"""HankelReg: rotation blocks as complex slots, angles and retentions at the ends of their range, tree names."""

from __future__ import annotations

import numpy as np
import pytest

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families import hankelreg
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.systems import DiagonalSystem

AWKWARD = {
    "positive": [-0.1, -0.4],
    "negative": [-0.1 + 1j * np.pi, -0.4 - 1j * np.pi],
    "near the circle": [-1e-12 - 0.3j, -1e-9, -1e-7 + 1j * np.pi],
    "fast": [np.log(1e-14) + 1j, -13.0],
    "many turns": [-0.1 + 300.0j, -0.1 - 300.0j],
    "tiny angle": [-0.1 + 1e-12j, -0.2 + (np.pi - 1e-9) * 1j],
}


@pytest.fixture
def tiny(first_layer):
    return first_layer(hankelreg, *hankelreg.tiny("hankelreg", 0))


def system_with(a) -> DiagonalSystem:
    rng, n = np.random.default_rng(1), len(a)
    B, C = (rng.normal(size=(1, *s)) + 1j * rng.normal(size=(1, *s)) for s in ((n, 6), (6, n)))
    return DiagonalSystem(a=np.asarray(a, dtype=complex)[None], B=B, C=C, D=np.diag(rng.normal(size=6))[None])


@pytest.mark.parametrize("poles", AWKWARD.values(), ids=AWKWARD)
def test_awkward_poles_are_stored(tiny, respond, poles):
    layer, arrays = tiny
    system = system_with(poles)
    new = hankelreg.from_system(layer, arrays, system)
    again = hankelreg.to_system(layer, new)
    np.testing.assert_allclose(np.real(again.a), np.real(system.a), rtol=1e-13)
    h = impulse_response(system, 40)
    # Folding 300 radians costs 1e-13, forty times over.
    np.testing.assert_allclose(impulse_response(again, 40), h, rtol=0, atol=1e-11 * np.abs(h).max())
    u = np.random.default_rng(0).standard_normal((30, 6))
    y = respond(layer, system, u)
    np.testing.assert_allclose(hankelreg.forward(layer, new, u), y, rtol=0, atol=1e-10 * np.abs(y).max())


def test_ends_of_the_range_are_exact_in_single_precision(tiny):
    layer, arrays = tiny
    new = hankelreg.from_system(layer, arrays, system_with([-0.1, -0.1 + 1j * np.pi, -800.0 + 1j]))
    angles = new["rotation/angles"].astype(np.float32)
    assert np.isfinite(angles).all()
    np.testing.assert_array_equal((np.tanh(angles[:2]) + 1) / 2, np.array([0, 1], dtype=np.float32))
    assert np.isfinite(new["rotation/retentions"]).all()


def test_a_block_is_a_complex_slot(tiny):
    """The eigenvalues of the block matrix are those of the slot and of its mirror image."""
    layer, arrays = tiny
    a = hankelreg.to_system(layer, arrays).a[0]
    angle = np.pi * (np.tanh(arrays["rotation/angles"]) + 1) / 2
    rho = (np.tanh(arrays["rotation/retentions"]) + 1) / 2
    for i in range(layer.slots):
        block = rho[i] * np.array([[np.cos(angle[i]), np.sin(angle[i])], [-np.sin(angle[i]), np.cos(angle[i])]])
        poles = np.exp([a[i], np.conj(a[i])])
        np.testing.assert_allclose(np.sort_complex(np.linalg.eigvals(block)), np.sort_complex(poles), atol=1e-14)


def test_what_cannot_be_stored_is_refused(tiny):
    layer, arrays = tiny
    with pytest.raises(FamilyError, match="stable"):
        hankelreg.from_system(layer, arrays, system_with([0.01 + 1j]))
    system = system_with([-0.1])
    system.D[0, 2, 1] = 1.0
    with pytest.raises(FamilyError, match="diagonal"):
        hankelreg.from_system(layer, arrays, system)


def leaves(prefix: str, separator: str = "/", **change: tuple[int, ...]) -> dict[str, TensorInfo]:
    shapes = {"rotation/angles": (4,), "rotation/retentions": (4,), "sys_in": (4, 2, 6), "sys_out": (6, 4, 2)}
    shapes |= {"sys_feed": (6,)} | change
    return {(prefix + k).replace("/", separator): TensorInfo(s, "F32") for k, s in shapes.items()}


@pytest.mark.parametrize(
    ("prefix", "separator", "name"),
    [
        ("0/layers/1/sequence_processor/", "/", "layers/1/sequence_processor"),
        ("state/0/layers/1/sequence_processor/", ".", "layers.1.sequence_processor"),
        ("layers/0/sequence_processor/", "/", "layers/0/sequence_processor"),
        ("", ".", "layer"),
    ],
)
def test_names(prefix, separator, name):
    copies = leaves("1/opt_state/0/mu/layers/1/sequence_processor/", separator)
    found = hankelreg.layers(leaves(prefix, separator) | copies, None)
    assert [(x.name, x.slots, x.order, x.inputs) for x in found] == [(name, 4, 8, 6)]


def test_inconsistent_tensors_are_refused():
    with pytest.raises(FamilyError, match=r"sys_out has shape \(6, 5, 2\)"):
        hankelreg.layers(leaves("", sys_out=(6, 5, 2)), None)
    with pytest.raises(FamilyError, match="missing tensors: x/sys_feed"):
        hankelreg.layers({k: v for k, v in leaves("x/").items() if "feed" not in k}, None)


def test_configuration_of_the_reduced_model():
    (layer,) = hankelreg.layers(leaves(""), None)
    assert hankelreg.reduced_config({"ssm": {"state_dim": 8, "io_dim": 6}}, layer, 3) == {
        "ssm": {"state_dim": 6, "io_dim": 6}
    }
