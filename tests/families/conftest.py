"""Small tools for the tests of single families: a layer of a tiny checkpoint, and a simulation that needs no family."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.families._contract import Layer
from ssmtool.lti.impulse import impulse_response

STORED = {"float64": "F64", "float32": "F32", "complex64": "C64", "complex128": "C128"}


def _infos(tensors: dict[str, np.ndarray]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(x.shape, STORED[x.dtype.name]) for name, x in tensors.items()}


def _arrays(layer: Layer, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    wide = {"f": np.float64, "c": np.complex128}
    return {role: tensors[name].astype(wide[tensors[name].dtype.kind]) for role, name in layer.tensors.items()}


@pytest.fixture
def infos() -> Callable:
    """tensors -> what a header says of them."""
    return _infos


@pytest.fixture
def first_layer() -> Callable:
    """(module, tensors, config) -> first layer, its arrays in double precision."""

    def get(module, tensors, config):
        layer = module.layers(_infos(tensors), config)[0]
        return layer, _arrays(layer, tensors)

    return get


@pytest.fixture
def respond() -> Callable:
    """(layer, system, u) -> output by convolution with the impulse response; both directions of two-sided layers."""

    def simulate(layer, system, u):
        length, two_sided = len(u), layer.options.get("directions", 1) == 2
        h = impulse_response(system, length)
        u = u.reshape(length, system.systems, system.inputs)
        rows = system.outputs // 2 if two_sided else system.outputs
        y = np.zeros((length, system.systems, rows))
        for k in range(length):
            y[k] = np.einsum("spmk,ksm->sp", h[:, :rows, :, : k + 1], u[k::-1])
            if two_sided:
                y[k] += np.einsum("spmk,ksm->sp", h[:, rows:, :, : length - k], u[k:])
        return y.reshape(length, -1)

    return simulate
