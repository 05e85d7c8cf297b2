"""Every linear family makes the same systems of PyTorch tensors as of NumPy arrays, with gradients through all of them.

Tolerances: 1e-14 of the largest value for systems (the two libraries round elementary functions differently by an ulp
or two), 1e-12 for full S4, whose matrices go through a solve. Gradients against central differences with steps of 1e-6:
truncation 1e-12, rounding 1e-10 of the value; 1e-5 relative leaves room for the curvature near the unit circle.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from ssmtool import plugins
from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.families._contract import Layer
from ssmtool.lti.hankel_penalty import hankel_penalty
from ssmtool.lti.systems import DenseSystem

PACKAGE = "ssmtool.families"
LINEAR = [
    (family, variant)
    for family in plugins.names(PACKAGE)
    if hasattr(plugins.load(PACKAGE, family), "to_system")
    for variant in plugins.load(PACKAGE, family).VARIANTS
]
SAFETENSORS = {"float64": "F64", "float32": "F32", "complex64": "C64", "complex128": "C128", "int64": "I64"}
WIDE = {"f": np.float64, "c": np.complex128, "i": np.int64}

each_linear = pytest.mark.parametrize(("family", "variant"), LINEAR, ids=[f"{f}-{v}" for f, v in LINEAR])


def loaded(family: str, variant: str, seed: int) -> tuple[ModuleType, Layer, dict[str, np.ndarray]]:
    """The family, the last layer of its small checkpoint, and that layer's arrays."""
    module = plugins.load(PACKAGE, family)
    tensors, config = module.tiny(variant, seed)
    infos = {name: TensorInfo(x.shape, SAFETENSORS[str(x.dtype)]) for name, x in tensors.items()}
    layer = module.layers(infos, config)[-1]
    arrays = {role: tensors[name].astype(WIDE[tensors[name].dtype.kind]) for role, name in layer.tensors.items()}
    return module, layer, arrays


def live(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The arrays as tensors that gradients are asked for."""
    return {role: torch.tensor(x, requires_grad=x.dtype.kind != "i") for role, x in arrays.items()}


@each_linear
@pytest.mark.parametrize("seed", [0, 5])
def test_tensors_make_the_same_system_as_arrays(family: str, variant: str, seed: int) -> None:
    module, layer, arrays = loaded(family, variant, seed)
    expected, found = module.to_system(layer, arrays), module.to_system(layer, live(arrays))
    assert type(found) is type(expected)
    dense = isinstance(expected, DenseSystem)
    for part in "ABCD" if dense else "aBCD":
        x, y = getattr(expected, part), getattr(found, part).detach().resolve_conj().numpy()
        assert x.dtype == y.dtype
        np.testing.assert_allclose(y, x, rtol=0, atol=(1e-12 if dense else 1e-14) * max(np.abs(x).max(), 1))


@each_linear
def test_gradients_of_the_penalty_reach_the_stored_tensors(family: str, variant: str) -> None:
    module, layer, arrays = loaded(family, variant, 1)
    tensors = live(arrays)
    if isinstance(module.to_system(layer, arrays), DenseSystem):
        pytest.skip("full S4 makes dense systems, which have no penalty")
    moving = [role for role, x in tensors.items() if x.requires_grad and role != "D" and role != "sys_feed"]

    def penalty(*values: torch.Tensor) -> torch.Tensor:
        given: dict[str, Any] = tensors | dict(zip(moving, values, strict=True))
        system = module.to_system(layer, given)
        return hankel_penalty(system.a, system.B, system.C, "log", system.real, scale=0.3)

    assert torch.autograd.gradcheck(penalty, [tensors[role] for role in moving], eps=1e-6, atol=1e-6, rtol=1e-5)
