"""config.json says something else than the code expects: an error that names the key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ssmtool import plugins
from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families._names import number

DTYPES = {"f4": "F32", "f8": "F64", "c8": "C64", "i8": "I64", "f2": "F16"}
ODD = [[1, 2], {"a": 1}, "F64", True, float("nan"), 10**400]
# Numbers that are read where layers are found, or where a layer becomes a system.
READ = [
    ("dss", "l_max"), ("dss", "epsilon"), ("dss", "max_real_Lambda"), ("s4", "bandlimit"),
    ("jamba", "rms_norm_eps"), ("mamba", "layer_norm_epsilon"), ("mamba2", "layer_norm_epsilon"),
    ("falcon_h1", "ssm_multipliers"), ("falcon_h1", "rms_norm_eps"),
]  # fmt: skip


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize(("family", "key"), READ)
def test_what_is_no_number_is_refused_by_name(family: str, key: str, value: Any) -> None:
    module = plugins.load("ssmtool.families", family)
    arrays, config = module.tiny(module.VARIANTS[0], 0)
    if key == "ssm_multipliers":
        value = [1.0, 1.0, value, 1.0, 1.0]
    tensors = {name: TensorInfo(x.shape, DTYPES[x.dtype.str[1:]]) for name, x in arrays.items()}
    changed = {**(config or {}), key: value}
    with pytest.raises(FamilyError, match=key) as caught:  # noqa: PT012 - whichever reads it
        layers = module.layers(tensors, changed)
        if hasattr(module, "stack"):
            module.stack(tensors, changed, layers)
        assert layers[0].options["bandlimit"] is not None
    assert len(caught.value.line()) < 300


def test_infinity_as_hugging_face_spells_it_may_be_anything() -> None:
    module = plugins.load("ssmtool.families", "mamba2")
    arrays, config = module.tiny(module.VARIANTS[0], 0)
    tensors = {name: TensorInfo(x.shape, DTYPES[x.dtype.str[1:]]) for name, x in arrays.items()}
    for value in ("x", [], None, 10**400):
        with pytest.raises(FamilyError, match="time_step_limit"):
            module.layers(tensors, {**config, "time_step_limit": [0.0, {"__float__": value}]})
    assert module.layers(tensors, {**config, "time_step_limit": [0.0, {"__float__": "Infinity"}]})


def test_numbers() -> None:
    assert number({"a": "0.5"}, "a", default=1.0) == 0.5
    assert number({}, "a", default=1.0) == 1.0
    assert np.isinf(number({"a": float("inf")}, "a", default=1.0))
