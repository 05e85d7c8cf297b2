"""What layers meet on calibration data, against hooks and Jacobians of the tests' own; the error on it, simulated."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from ssmtool.errors import CalibrationError, FamilyError
from ssmtool.lti.systems import DenseSystem, DiagonalSystem
from ssmtool.pipeline.live import live_layers, places
from ssmtool.pipeline.output_error import output_error
from ssmtool.pipeline.seen import seen_by
from ssmtool.reductions._contract import Seen
from ssmtool.reference.layouts._contract import Sizes
from ssmtool.reference.model import create, layouts
from tests.pipeline.live_models import Neutral, Stack, built, s4d_state, sequences


def all_places(model, data):
    return places(model, live_layers(model), data[:2])


def met(model, name, data):
    """The first argument of one module."""
    caught = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: caught.append(args[0].detach()))
    model(data)
    handle.remove()
    return caught[0]


def same(one, other):
    """Up to float32 sums of other batch sizes: some 1e-7 of values of a few."""
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_the_inputs_of_independent_systems():
    """S4D: channels before time, and 20 steps of 3 channels."""
    model, data = built(s4d_state()), sequences(5)
    for place in all_places(model, data):
        seen = seen_by(model, place, data)
        assert seen.inputs.shape == (5, 3, 20, 1)
        assert seen.weight is None
        same(seen.inputs[..., 0], met(model, place.inner, data).double().numpy())


@pytest.mark.parametrize("channels", [3, 20])
def test_time_is_told_from_channels_even_where_there_are_as_many(channels):
    """Channels first (S4D) and last (Stack): the same numbers in the right place."""
    data = sequences(4, 20)
    first = built(s4d_state(channels=channels))
    place = all_places(first, data)[1]
    same(seen_by(first, place, data).inputs[..., 0], met(first, place.inner, data).double().numpy())
    last = Stack(width=channels).eval()
    place = all_places(last, data)[1]
    same(seen_by(last, place, data).inputs[:, 0], met(last, place.inner, data).double().numpy())


@pytest.mark.parametrize("layout", layouts())
def test_reference_layers_are_seen_behind_their_norm(layout):
    model = create(layout, Sizes(2, 4, 3, (3, 3)), seed=0).eval()
    data = sequences(4)
    for place in all_places(model, data):
        inputs = torch.from_numpy(seen_by(model, place, data).inputs)  # (K, S, L, m)
        channels = inputs.permute(0, 2, 1, 3).reshape(4, 20, 4)
        # every norm of these models has scale 1 and offset 0 at the start: mean 0 and variance 1 over channels
        torch.testing.assert_close(channels.mean(-1), torch.zeros(4, 20).double(), atol=1e-5, rtol=0)
        assert (channels.var(-1, correction=0) - 1).abs().max() < 0.05  # epsilon of the norm


def test_inputs_without_variance_are_refused():
    model, data = Stack().eval(), torch.ones(4, 20, 2)
    with torch.no_grad():  # a silent first layer: the stream stays constant over time and sequences
        model.layers[0].ssm.C.zero_()
        model.layers[0].ssm.D.zero_()
    place = all_places(model, data)[1]
    with pytest.raises(CalibrationError, match="zero variance where they reach this layer"):
        seen_by(model, place, data)


def test_a_layer_called_by_a_method_is_refused_with_a_remedy():
    model, data = Stack(how="method").eval(), sequences(4)
    with pytest.raises(FamilyError, match="only methods of it"):
        seen_by(model, all_places(model, data)[0], data)


class Narrow(nn.Module):
    """Holds a layer of 3 channels and is called with 5."""

    def __init__(self):
        super().__init__()
        self.down, values = nn.Linear(5, 3), Neutral(3, 4, 0)
        self.lambda_log, self.B, self.C, self.D = values.lambda_log, values.B, values.C, values.D

    def forward(self, x):
        return Neutral.run(cast(Any, self), self.down(x))


def test_a_module_with_other_channels_than_its_layer_is_refused():
    model, data = nn.Sequential(Narrow()).eval(), sequences(4, inputs=5)
    with pytest.raises(FamilyError, match="not with 3 channels over time"):
        seen_by(model, all_places(model, data)[0], data)


def jacobian(model, part, u):
    """Of the model's outputs with respect to what one module of it returned."""
    kept = []
    handle = part.register_forward_hook(lambda _, args, out: kept.append(out.detach()))
    model(u)
    handle.remove()

    def rest(y):
        handle = part.register_forward_hook(lambda _, args, out: y)
        result = model(u)
        handle.remove()
        return result

    return torch.autograd.functional.jacobian(rest, kept[0])


@pytest.mark.parametrize("index", [0, 1])
def test_the_weight_is_the_mean_square_of_the_jacobian(index):
    """Random directions on 128 sequences: 4 x 128 draws of 4 outputs, so a few per cent of the largest entry."""
    model = create("s5", Sizes(2, 3, 4, (2, 2)), seed=0).eval()
    data = sequences(128, 8)
    place = all_places(model, data)[index]
    weight = seen_by(model, place, data).weight
    assert weight is not None
    part = model.get_submodule(place.inner)
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for u in data[:, None]:
        J = jacobian(model, part, u).reshape(32, 3).double()
        expected += J.T @ J
    expected *= 3 / expected.trace()
    np.testing.assert_allclose(weight[0], expected, atol=0.12 * expected.abs().max().item())
    np.testing.assert_allclose(np.trace(weight[0]), 3)


def simulate(system, u):
    """Outputs (K, S, L, p) step by step."""
    out = np.zeros((*u.shape[:3], system.outputs))
    for k in range(len(u)):
        for s in range(system.systems):
            if isinstance(system, DenseSystem):
                A, B, C = system.A[s], system.B[s], system.C[s]
            else:
                A, B, C = np.diag(np.exp(system.a[s])), system.B[s], system.C[s]
            x = np.zeros(len(A), dtype=complex)
            for t in range(u.shape[2]):
                x = A @ x + B @ u[k, s, t]
                out[k, s, t] = np.real(C @ x) + system.D[s] @ u[k, s, t]
    return out


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_output_error_is_that_of_a_simulation(dense, weighted):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape)

    S, n, m, p = 2, 3, 2, 3
    a = -rng.uniform(0.1, 1, (S, n)) + 1j * rng.uniform(0, 3, (S, n))
    full = DiagonalSystem(a, normal(S, n, m) + 1j * normal(S, n, m), normal(S, p, n) + 0j, normal(S, p, m))
    less = DiagonalSystem(a[:, :2], full.B[:, :2], full.C[:, :, :2], 0.9 * full.D)
    if dense:
        A = 0.4 * normal(S, n, n)
        full = DenseSystem(
            A / np.linalg.norm(A, 2, axis=(1, 2), keepdims=True) * 0.8, normal(S, n, m), normal(S, p, n), full.D
        )
    u = normal(4, S, 9, m)
    root = normal(S, p, p)
    weight = root @ np.swapaxes(root, 1, 2) if weighted else None
    y, error = simulate(full, u), simulate(full, u) - simulate(less, u)
    W = np.eye(p)[None].repeat(S, 0) if weight is None else weight
    expected = np.sqrt(np.einsum("kslp,spq,kslq->", error, W, error) / np.einsum("kslp,spq,kslq->", y, W, y))
    assert output_error(full, less, Seen(u, weight)) == pytest.approx(expected, rel=1e-9)
    assert output_error(full, full, Seen(u, weight)) < 1e-7
