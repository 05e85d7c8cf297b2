"""What moves of a layer in a fit, how far, and that poles stay inside, for every linear family in every layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ssmtool import plugins
from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.pipeline.leaves import Leaves
from ssmtool.pipeline.live_layers import dtype_name
from tests.pipeline.checkpoints import CASES, tiny

LOW_RANK = {"v4-dplr", "v4-dplr-untied", "v4-dplr-shared", "v3-nplr", "v3-nplr-untied"}
DIAGONAL = [case for case in CASES if case[1] not in LOW_RANK]
STEPS = {"log_dt", "log_step", "dt"}
each = pytest.mark.parametrize(("family", "variant"), DIAGONAL, ids=[f"{f}-{v}" for f, v in DIAGONAL])


def layer_and_tensors(family, variant):
    tensors, config = tiny(family, variant)
    infos = {name: TensorInfo(tuple(x.shape), dtype_name(x)) for name, x in tensors.items()}
    layer = plugins.load("ssmtool.families", family).layers(infos, config)[0]
    return layer, {role: tensors[name] for role, name in layer.tensors.items()}


def made(family, variant):
    return Leaves(*layer_and_tensors(family, variant))


def system_of(leaves) -> Any:
    """The system, whose arrays are tensors."""
    return leaves.system()


def set_all(leaves, value):
    with torch.no_grad():
        for leaf in leaves.leaves.values():
            leaf.x.copy_(value(leaf.x))


@each
def test_at_the_start_tensors_are_what_they_were(family, variant):
    layer, tensors = layer_and_tensors(family, variant)
    values = Leaves(layer, tensors).values()
    assert set(values) == {role for role, x in tensors.items() if x.dtype.is_floating_point or x.is_complex()} - STEPS
    for role, x in values.items():
        assert x.dtype == tensors[role].dtype
        assert torch.equal(x, tensors[role]), role


@each
def test_every_number_is_reached(family, variant):
    leaves = made(family, variant)
    system = system_of(leaves)
    generator = torch.Generator().manual_seed(0)
    total: Any = sum(
        (part.abs() * torch.randn(part.shape, generator=generator)).sum()
        for part in (system.a.real, system.a.imag, system.B, system.C, system.D)
    )
    total.backward()
    for role, leaf in leaves.leaves.items():
        assert leaf.x.grad is not None
        assert bool(torch.isfinite(leaf.x.grad).all()), role
        assert bool((leaf.x.grad != 0).any()), role


@each
def test_a_hundredth_moves_decays_by_a_hundredth_of_themselves(family, variant):
    """Up to the curvature of a layout, which halves the way at most twice, and to poles that share a stored number."""
    leaves = made(family, variant)
    before = system_of(leaves).a.detach()
    set_all(leaves, lambda x: torch.full_like(x, 1e-2))
    after = system_of(leaves).a.detach()
    decay = ((after - before).real / before.real).abs()
    angle = (after - before).imag.abs() / before.abs()
    assert 2e-3 < decay.max() < 5e-2
    assert decay.median() > 1e-3
    assert angle.max() < 5e-2
    if bool((before.imag != 0).any()):
        assert angle.max() > 2e-3


@each
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_poles_stay_inside_after_any_step(family, variant, size):
    leaves = made(family, variant)
    generator = torch.Generator().manual_seed(1)
    set_all(leaves, lambda x: size * torch.randn(x.shape, generator=generator))
    leaves.mend()
    assert bool((system_of(leaves).a.real < 0).all())


def test_mending_one_pole_leaves_the_others_and_the_weights_where_they_are():
    leaves = made("neutral", "batch")
    set_all(leaves, lambda x: torch.full_like(x, 0.3))
    with torch.no_grad():
        leaves.leaves["lambda_log"].x[1, 2, 0] = 5.0  # the decay of one pole, five times its own size
    assert not bool((system_of(leaves).a.real < 0).all())
    kept = {role: leaf.x.detach().clone() for role, leaf in leaves.leaves.items()}
    leaves.mend()
    assert bool((system_of(leaves).a.real < 0).all())
    moved = leaves.leaves["lambda_log"].x != kept["lambda_log"]
    assert moved.nonzero().tolist() == [[1, 2, 0]]
    assert all(torch.equal(leaf.x, kept[role]) for role, leaf in leaves.leaves.items() if role != "lambda_log")


def test_a_pole_that_was_outside_stays_where_it_is_and_stops_nothing():
    layer, tensors = layer_and_tensors("neutral", "batch")
    poles = torch.view_as_real(tensors["lambda_log"]) if tensors["lambda_log"].is_complex() else tensors["lambda_log"]
    poles[0, 0, 0] = 0.02
    leaves = Leaves(layer, tensors)
    before = system_of(leaves).a.detach()
    set_all(leaves, lambda x: torch.full_like(x, 0.1))
    leaves.mend()
    after = system_of(leaves).a.detach()
    assert after[0, 0] == before[0, 0]
    assert bool((after != before)[before.real < 0].all())
    assert bool((leaves.leaves["C"].x == 0.1).all())


def test_a_single_slot_does_not_make_the_step_move():
    tensors, config = tiny("s4d", "s4d")
    tensors = {name: x[:, :1].contiguous() if "kernel" in name and x.ndim > 1 else x for name, x in tensors.items()}
    infos = {name: TensorInfo(tuple(x.shape), dtype_name(x)) for name, x in tensors.items()}
    layer = plugins.load("ssmtool.families", "s4d").layers(infos, config)[0]
    leaves = Leaves(layer, {role: tensors[name] for role, name in layer.tensors.items()})
    assert set(leaves.leaves) == {"log_A_real", "A_imag", "C", "D"}


@pytest.mark.parametrize(("family", "role"), [("hankelreg", "rotation/angles"), ("lru", "theta_log")])
def test_an_angle_that_is_infinitely_far_away_does_not_jump(family, role):
    """Real poles are written as tanh(20) or log(1e-9): to move the pole by its own size would take 1e9 or more."""
    layer, tensors = layer_and_tensors(family, plugins.load("ssmtool.families", family).VARIANTS[0])
    stored = tensors[role].clone()
    stored[0] = {"hankelreg": 20.0, "lru": float(np.log(1e-9))}[family]
    leaves = Leaves(layer, tensors | {role: stored})
    before = system_of(leaves).a.detach()
    set_all(leaves, lambda x: torch.full_like(x, -0.1))
    after = system_of(leaves).a.detach()
    assert bool(torch.isfinite(torch.view_as_real(after)).all())
    assert (after - before)[0, 0].imag.abs() < 0.1


@pytest.mark.parametrize("variant", sorted(LOW_RANK))
def test_dense_layers_are_refused(variant):
    with pytest.raises(FamilyError, match="dense state matrix"):
        made("s4", variant)


def test_complex_tensors_move_in_both_parts():
    layer, tensors = layer_and_tensors("lru", "torch-complex")
    leaves = Leaves(layer, tensors)
    set_all(leaves, lambda x: torch.full_like(x, 0.1))
    change = leaves.values()["B"] - tensors["B"]
    assert bool((change.real != 0).all())
    assert bool((change.imag != 0).all())
