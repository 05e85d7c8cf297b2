"""What is particular to the S4 versions and to DSS, beyond the conformance suite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families import dss, s4
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.systems import DiagonalSystem


def load(module, variant, config=None):
    tensors, own = module.tiny(variant, 0)
    infos = {n: TensorInfo(x.shape, "I64" if x.dtype == np.int64 else "F32") for n, x in tensors.items()}
    layer = module.layers(infos, own if config is None else config)[0]
    arrays = {
        r: tensors[n].astype(np.int64 if tensors[n].dtype == np.int64 else float) for r, n in layer.tensors.items()
    }
    return layer, arrays, infos


def one_pole(layer, a, real=False):
    S, p = layer.systems, layer.outputs
    return DiagonalSystem(
        a=np.full((S, 1), a, dtype=complex),
        B=np.ones((S, 1, 1), dtype=complex),
        C=np.ones((S, p, 1), dtype=complex),
        D=np.zeros((S, p, 1)),
        real=real,
    )


def test_kernel_longer_than_the_stored_length():
    """C~ tied to length l must give the kernel beyond l too: the source doubles l, the canonical C needs nothing."""
    layer, arrays, _ = load(s4, "v4-dplr")
    length = 3 * int(arrays["length"]) + 1
    u = np.zeros((length, layer.systems))
    u[0] = 1
    h = impulse_response(s4.to_system(layer, arrays), length)
    y = s4.forward(layer, arrays, u)
    np.testing.assert_allclose(y, h[:, 0, 0].T, rtol=0, atol=1e-9 * np.abs(h).max())


@pytest.mark.parametrize(("variant", "mode"), [("v4-dplr", "zoh"), ("v3-nplr", "bilinear")])
def test_full_s4_goes_back_under_the_diagonal_default(variant, mode):
    layer, arrays, _ = load(s4, variant)
    assert layer.options["disc"] == "bilinear"
    assert layer.options["export_disc"] == mode
    assert "mode='diag'" in layer.note
    new = s4.from_system(layer, arrays, one_pole(layer, -0.4 + 1j))
    imag = new["A_imag"] if variant == "v4-dplr" else new["model.layers.0.layer.kernel.kernel.A_imag"]
    assert imag is not None
    dt = np.exp(arrays["dt"].reshape(-1, 1))
    lam = (-0.4 + 1j) / dt if mode == "zoh" else 2 / dt * np.tanh((-0.4 + 1j) / 2)
    np.testing.assert_allclose(imag, -lam.imag if variant == "v4-dplr" else lam.imag)
    assert new["P"] is None
    assert new["length"] is None


def test_v3_diagonal_writes_the_tensor_its_class_registers_and_ignores():
    layer, arrays, _ = load(s4, "v3-nplr")
    new = s4.from_system(layer, arrays, one_pole(layer, -0.4 + 1j))
    spare = new["model.layers.0.layer.kernel.kernel.A"]
    assert spare is not None
    assert spare.shape == (layer.systems, 1, 2)
    assert new["B"] is not None
    assert new["B"].shape == (layer.systems, 1, 2)


def test_full_s4_config_becomes_diagonal():
    layer, _, _ = load(s4, "v4-dplr")
    config = {"layer": {"d_state": 64, "mode": "dplr", "n_ssm": 1}, "d_model": 4}
    assert s4.reduced_config(config, layer, 3) == {"layer": {"d_state": 6, "mode": "diag", "n_ssm": 4}, "d_model": 4}


def test_a_length_dependent_discretisation_is_refused_when_it_matters():
    layer, arrays, _ = load(s4, "v4-diag", {"disc": "dss"})
    with pytest.raises(FamilyError, match="disc='dss'"):
        s4.to_system(layer, arrays)


def test_what_a_layer_cannot_store_is_refused():
    layer, arrays, _ = load(s4, "v4-real")
    with pytest.raises(FamilyError, match="real poles"):
        s4.from_system(layer, arrays, one_pole(layer, -0.4 + 1j * np.pi, real=True))
    layer, arrays, _ = load(s4, "v4-diag-bandlimit", {"bandlimit": 0.2})
    with pytest.raises(FamilyError, match=r"bandlimit=0\.2"):
        s4.from_system(layer, arrays, one_pole(layer, -0.4 + 1j))
    layer, arrays, _ = load(s4, "v4-diag", {"real_transform": "sigmoid"})
    with pytest.raises(FamilyError, match="sigmoid"):
        s4.from_system(layer, arrays, one_pole(layer, -0.4 + 0j))
    layer, arrays, _ = load(s4, "v4-diag-shared")
    with pytest.raises(FamilyError, match="backward direction cannot store"):
        s4.from_system(layer, arrays, replace(one_pole(layer, -0.4), D=np.ones((4, 4, 1))))


def test_h3_is_not_taken_for_v3():
    _, _, infos = load(s4, "v3-diag")
    h3 = infos | {f"model.layers.{i}.layer.ssm_k_kernel.kernel.C": TensorInfo((1, 4, 6), "F32") for i in range(2)}
    assert s4.layers(h3, None) == ()


def test_missing_tensor_is_named():
    _, _, infos = load(s4, "v4-diag")
    name = "model.layers.1.layer.layer.kernel.B"
    with pytest.raises(FamilyError, match=name.replace(".", r"\.")):
        s4.layers({n: t for n, t in infos.items() if n != name}, None)


def test_softmax_without_a_length_is_listed_but_not_converted():
    layer, arrays, _ = load(dss, "softmax", {})
    assert layer.options["l_max"] is None
    assert "version is not stored" in layer.note
    with pytest.raises(FamilyError, match="l_max"):
        dss.to_system(layer, arrays)
    unknown, _, _ = load(dss, "softmax", {"l_max": 1})
    assert unknown.options["l_max"] is None


def test_growing_softmax_modes_are_shifted_to_the_end():
    layer, arrays, _ = load(dss, "softmax")
    arrays["Lambda"][0, 0] = 0.2
    h = impulse_response(dss.to_system(layer, arrays), 24)
    u = np.zeros((24, layer.systems))
    u[0] = 1
    np.testing.assert_allclose(dss.forward(layer, arrays, u), h[:, 0, 0].T, rtol=0, atol=1e-12 * np.abs(h).max())


def test_dss_keeps_stored_poles_and_refuses_poles_of_single_channels():
    layer, arrays, _ = load(dss, "exp")
    system = dss.to_system(layer, arrays)
    kept = [4, 1, 2]
    small = replace(system, a=system.a[:, kept], B=system.B[:, kept], C=system.C[:, :, kept])
    new = dss.from_system(layer, arrays, small)
    assert new["Lambda_im"] is not None
    np.testing.assert_array_equal(new["Lambda_im"], arrays["Lambda_im"][kept])
    assert new["W"] is not None
    np.testing.assert_allclose(new["W"], arrays["W"][:, :, kept], rtol=1e-12)
    a = small.a.copy()
    a[1, 0] *= 1.1
    with pytest.raises(FamilyError, match="shares its eigenvalues"):
        dss.from_system(layer, arrays, replace(small, a=a))


def test_a_version_that_contradicts_the_tensors_is_refused():
    with pytest.raises(FamilyError, match="exp"):
        load(dss, "exp", {"version": "clip"})
    assert load(dss, "exp", {"version": "1.0"})[0].variant == "exp"
