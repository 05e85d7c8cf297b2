"""s5-pytorch: side by side with the PyPI package, and which tensors are taken for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families import s5, s5_pytorch
from ssmtool.lti.impulse import impulse_response

WIDTH, STATES = 4, 6
# The package computes in float32 over 30 steps; its parameters are exponentiated.
SINGLE = 1e-5
u = np.random.default_rng(0).standard_normal((30, WIDTH))


def original(states: int, bidir: bool):
    package = pytest.importorskip("s5")
    return package.S5(WIDTH, states, bidir=bidir)


def state(model) -> dict[str, np.ndarray]:
    return {k: v.detach().numpy() for k, v in model.state_dict().items()}


def run(model) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor(u, dtype=torch.float32)[None])[0].numpy()


@pytest.mark.parametrize("bidir", [False, True])
def test_side_by_side_with_the_package(first_layer, respond, bidir):
    import torch

    torch.manual_seed(0)
    model = original(STATES, bidir)
    y = run(model)
    layer, arrays = first_layer(s5_pytorch, state(model), {"bidir": bidir})
    assert (layer.slots, layer.outputs, layer.options["directions"]) == (STATES, WIDTH * (1 + bidir), 1 + bidir)
    np.testing.assert_allclose(s5_pytorch.forward(layer, arrays, u), y, rtol=0, atol=SINGLE * np.abs(y).max())
    system = s5_pytorch.to_system(layer, arrays)
    np.testing.assert_allclose(respond(layer, system, u), y, rtol=0, atol=SINGLE * np.abs(y).max())


@pytest.mark.parametrize("states", [1, 3, 4])
@pytest.mark.parametrize("bidir", [False, True])
def test_a_reduced_checkpoint_loads_in_the_package(first_layer, respond, bidir, states):
    """Only state_width changes. One slot is a real positive pole, one a negative one."""
    import torch

    torch.manual_seed(0)
    tensors = state(original(STATES, bidir))
    layer, arrays = first_layer(s5_pytorch, tensors, None)
    system = s5_pytorch.to_system(layer, arrays)
    system = replace(system, a=system.a[:, :states], B=system.B[:, :states], C=system.C[:, :, :states])
    system.a[0, :2] = np.array([-0.2, -0.1 + 1j * np.pi])[:states]
    new = s5_pytorch.from_system(layer, arrays, system)
    model = original(s5_pytorch.reduced_config({"state_width": STATES}, layer, states)["state_width"], bidir)
    model.load_state_dict(
        {layer.tensors[k]: torch.tensor(v.astype(tensors[layer.tensors[k]].dtype)) for k, v in new.items()}, strict=True
    )
    y = respond(layer, system, u)
    np.testing.assert_allclose(run(model), y, rtol=0, atol=SINGLE * np.abs(y).max())


def test_exact_pairs_are_stored_twice(first_layer):
    """Both members of a pair act like one slot with twice the C: there is no factor 2 in this port."""
    tensors, config = s5_pytorch.tiny("torch", 0)
    layer, arrays = first_layer(s5_pytorch, tensors, config)
    half = {k: np.concatenate([v[:1], v[:1].conj()]) for k, v in arrays.items() if k in ("Lambda", "log_step", "B")}
    half["B"][1, :, 1] *= -1
    half |= {"C": np.concatenate([arrays["C"][:, :1], arrays["C"][:, :1].conj()], axis=1), "D": arrays["D"]}
    single = {k: v[:1] for k, v in half.items()} | {"C": 2 * half["C"][:, :1], "D": half["D"]}
    both, one = (s5_pytorch.to_system(replace(layer, slots=n), x) for n, x in ((2, half), (1, single)))
    np.testing.assert_allclose(impulse_response(both, 20), impulse_response(one, 20), atol=1e-13)


def test_liquid_layers_are_not_time_invariant(first_layer):
    tensors, _ = s5_pytorch.tiny("torch", 0)
    layer, _ = first_layer(s5_pytorch, tensors, {"liquid": True})
    assert not layer.lti
    assert "liquid" in layer.note


def leaves(dtype: str = "C64", **change: tuple[int, ...]) -> dict[str, TensorInfo]:
    shapes = {"Lambda": (6,), "C": (4, 6), "B": (6, 4, 2), "D": (4,), "log_step": (6,)} | change
    return {f"seq.{k}": TensorInfo(s, dtype if k in ("Lambda", "C") else "F32") for k, s in shapes.items()}


def test_lookalikes_are_left_alone():
    assert s5_pytorch.layers(leaves(Lambda=(6, 2)), None) == ()
    assert s5_pytorch.layers(leaves("F32"), None) == ()
    assert s5.layers(leaves(), None) == ()
    without_step = {k: v for k, v in leaves().items() if k != "seq.log_step"}
    assert s5_pytorch.layers(without_step, None) == ()


def test_inconsistent_tensors_are_refused():
    with pytest.raises(FamilyError, match=r"seq.C has shape \(4, 7\)"):
        s5_pytorch.layers(leaves(C=(4, 7)), None)
    factorised = {k: v for k, v in leaves().items() if k not in ("seq.B", "seq.C")}
    with pytest.raises(FamilyError, match=r"missing tensors: seq\.B, seq\.C"):
        s5_pytorch.layers(factorised, None)
    with pytest.raises(FamilyError, match="degree"):
        s5_pytorch.layers(leaves(), {"degree": 2})


def test_configuration_of_the_reduced_model():
    (layer,) = s5_pytorch.layers(leaves(), None)
    config = {"state_width": 6, "block_count": 3, "width": 4}
    assert s5_pytorch.reduced_config(config, layer, 4) == {"state_width": 4, "block_count": 1, "width": 4}
    assert s5_pytorch.reduced_config({"block": {"state_dim": 6}}, layer, 4) == {"block": {"state_dim": 4}}
