"""Models are rebuilt from names and shapes alone; anything else is refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssmtool.errors import FamilyError, MismatchError, SsmtoolError
from ssmtool.reference.layouts._contract import Sizes
from ssmtool.reference.model import build, create, layouts

SIZES = Sizes(1, 8, 10, (4, 4))
POLE_TENSOR = {
    "s4d": "s4_layers.0.kernel.log_A_real",
    "s5": "encoder.layers_0.seq.Lambda_re",
    "lru": "encoder.layers_0.seq.nu_log",
    "hankelreg": "layers.0.sequence_processor.rotation.angles",
}
DECODER = {"s4d": "decoder.weight", "s5": "decoder.kernel", "lru": "decoder.kernel", "hankelreg": "dec.kernel"}
OUTPUT = {"s4d": "C", "s5": "C", "lru": "C_re", "hankelreg": "sys_out"}
BIAS = {layout: name.rpartition(".")[0] + ".bias" for layout, name in DECODER.items()}
STATE_NAMES = {
    "s4d": {
        "s4_layers.1.D": (8,),
        "s4_layers.1.kernel.C": (8, 4, 2),
        "s4_layers.1.kernel.log_dt": (8,),
        "s4_layers.1.kernel.log_A_real": (8, 4),
        "s4_layers.1.kernel.A_imag": (8, 4),
        "s4_layers.1.output_linear.0.weight": (16, 8, 1),
        "s4_layers.1.output_linear.0.bias": (16,),
    },
    "s5": {
        "encoder.layers_1.seq.Lambda_re": (4,),
        "encoder.layers_1.seq.Lambda_im": (4,),
        "encoder.layers_1.seq.B": (4, 8, 2),
        "encoder.layers_1.seq.C": (8, 4, 2),
        "encoder.layers_1.seq.D": (8,),
        "encoder.layers_1.seq.log_step": (4, 1),
    },
    "lru": {
        **{f"encoder.layers_1.seq.{name}_log": (4,) for name in ("nu", "theta", "gamma")},
        **{f"encoder.layers_1.seq.B_{part}": (4, 8) for part in ("re", "im")},
        **{f"encoder.layers_1.seq.C_{part}": (8, 4) for part in ("re", "im")},
        "encoder.layers_1.seq.D": (8,),
    },
    "hankelreg": {
        "enc.kernel": (1, 8),
        "dec.kernel": (8, 10),
        "layers.1.sequence_processor.rotation.angles": (4,),
        "layers.1.sequence_processor.rotation.retentions": (4,),
        "layers.1.sequence_processor.sys_in": (4, 2, 8),
        "layers.1.sequence_processor.sys_out": (8, 4, 2),
        "layers.1.sequence_processor.sys_feed": (8,),
        "layers.1.out2.kernel": (8, 8),
        "layers.1.prenorm.scale": (8,),
    },
}


def weights(layout: str, sizes: Sizes = SIZES) -> dict[str, torch.Tensor]:
    return dict(create(layout, sizes, seed=3).state_dict())


@pytest.mark.parametrize("layout", layouts())
def test_tensors_have_the_public_names_and_shapes(layout: str) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in weights(layout).items()}
    assert STATE_NAMES[layout].items() <= shapes.items()


@pytest.mark.parametrize("layout", layouts())
def test_build_restores_the_model_with_layers_of_different_size(layout: str) -> None:
    sizes = Sizes(1, 8, 10, (5, 1, 3))
    original = create(layout, sizes, seed=0).eval()
    rebuilt = build({name: tensor.numpy() for name, tensor in original.state_dict().items()})
    assert rebuilt.sizes == sizes
    u = torch.randn(2, 20, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(original(u), rebuilt(u))
    systems = 8 if layout == "s4d" else 1
    assert rebuilt.state_slots() == systems * (5 + 1 + 3)


@pytest.mark.parametrize("layout", layouts())
def test_build_keeps_float64(layout: str) -> None:
    model = build({name: tensor.double() for name, tensor in weights(layout).items()})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


@pytest.mark.parametrize("layout", layouts())
def test_padding_behind_the_end_changes_nothing(layout: str) -> None:
    model = create(layout, SIZES, seed=2).double().eval()
    u = torch.randn(3, 20, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([20, 7, 1])
    expected = torch.cat([model(row[:n][None]) for row, n in zip(u, lengths.tolist(), strict=True)])
    # Other transform lengths round differently; padding that leaked would show at the size of the outputs.
    torch.testing.assert_close(model(u, lengths), expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(model(u, torch.full((3,), 20)), model(u), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("layout", layouts())
def test_a_slot_without_output_changes_nothing(layout: str) -> None:
    """What a reduction relies on: dropping a slot whose C is zero is exact."""
    full, output = (
        weights(layout, Sizes(1, 8, 10, (4,))),
        {"s4d": "C", "s5": "C", "lru": "C_re", "hankelreg": "sys_out"}[layout],
    )
    kept = {}
    for name, tensor in full.items():
        field = name.rpartition(".")[2]
        if field == output or field == "C_im":
            tensor[:, -1] = 0
        axis = next((i for i, size in enumerate(tensor.shape) if size == 4), None)
        kept[name] = tensor if axis is None else tensor.narrow(axis, 0, 3)
    u = torch.randn(2, 20, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(build(full)(u), build(kept)(u), rtol=1e-5, atol=1e-6)


def refuse(tensors: dict[str, torch.Tensor], error: type[SsmtoolError], words: str) -> None:
    with pytest.raises(error) as caught:
        build(tensors, where="model.safetensors")
    line = str(caught.value)
    assert words in line
    assert line.startswith("model.safetensors: ")
    assert "\n" not in line


def test_foreign_tensors_are_refused() -> None:
    refuse({"weight": torch.zeros(3, 3)}, FamilyError, "not of a reference model (hankelreg, lru, s4d, s5)")
    refuse({}, FamilyError, "not of a reference model")


@pytest.mark.parametrize("layout", layouts())
def test_inconsistent_tensors_are_refused(layout: str) -> None:
    pole = POLE_TENSOR[layout]
    whole = weights(layout)
    decoder, bias = DECODER[layout], BIAS[layout]
    for name in whole:
        if name.endswith((".bias", decoder, "D")):
            refuse({k: v for k, v in whole.items() if k != name}, FamilyError, f"{name} is missing")
    refuse({k: v for k, v in whole.items() if k != pole}, FamilyError, "no layer 0")
    refuse({**whole, "extra": torch.zeros(1)}, MismatchError, "extra has no place")
    refuse({**whole, bias: torch.zeros(7)}, MismatchError, f"{bias} has shape (7,)")
    refuse({**whole, decoder: torch.zeros(())}, MismatchError, "wrong number of axes")
    refuse({**whole, pole: whole[pole][..., :0]}, MismatchError, "axis of length 0")
    complex_bias = {**whole, bias: torch.zeros(10, dtype=torch.complex64)}
    refuse(complex_bias, MismatchError, f"{bias} is complex")


@pytest.mark.parametrize("layout", layouts())
def test_creation_is_seeded_and_leaves_the_global_generator_alone(layout: str) -> None:
    before = torch.get_rng_state()
    first, again, other = (create(layout, SIZES, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_unknown_layout() -> None:
    with pytest.raises(KeyError, match="hankelreg, lru, s4d, s5"):
        create("transformer", SIZES, seed=0)


def test_build_accepts_numpy() -> None:
    model = build({name: np.asarray(tensor) for name, tensor in weights("lru").items()})
    assert not model.training
