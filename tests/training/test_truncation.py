"""In-training truncation: the model computes nearly the same, is smaller, and its optimiser goes on.

The a priori bound (twice the sum of the dropped Hankel singular values) is the truth for what truncation may change;
parameters in float32 add their rounding, 1e-4 of the largest output after the exponentials of the stored logarithms.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ssmtool import plugins
from ssmtool.errors import FamilyError, UnstableError, UsageError
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.norms import difference, hinf_norm
from ssmtool.lti.systems import DiagonalSystem
from ssmtool.pipeline.live_layers import LiveLayers, diagonal_system
from ssmtool.reference.layouts._contract import ReferenceModel, Sizes
from ssmtool.reference.model import build, create, layouts
from ssmtool.training import HankelRegularizer, Schedule, truncate
from ssmtool.training.live_writing import arrays_of
from tests.lti import samples
from tests.training.modules import holder, neutral

U = torch.randn(4, 24, 1, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 0])


def systems(model: nn.Module, config: dict | None = None) -> list[DiagonalSystem]:
    return [diagonal_system(layer, arrays_of(tensors)) for layer, tensors in LiveLayers(model, config=config)]


def trained(layout: str, steps: int = 3) -> tuple[ReferenceModel, torch.optim.Optimizer]:
    model = create(layout, Sizes(1, 4, 3, (8, 8)), seed=0)
    state = {id(p) for layer in model.state_spaces() for p in layer.state_parameters()}
    groups = [
        {"params": [p for p in model.parameters() if id(p) in state], "lr": 1e-3, "weight_decay": 0.0},
        {"params": [p for p in model.parameters() if id(p) not in state], "lr": 2e-3},
    ]
    optimizer = torch.optim.AdamW(groups)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(U), LABELS)
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("layout", layouts())
def test_layers_shrink_within_the_bound(layout: str) -> None:
    model, _ = trained(layout)
    before = systems(model)
    same, none, report = truncate(model, max_orders=6)
    assert same is model
    assert none is None
    for row, old, new in zip(report, before, systems(model), strict=True):
        assert row.slots_before == 8
        assert row.slots_after == new.slots < 8
        assert row.orders.max() <= 6
        sigma = hankel_singular_values(old).sigma
        tail = 2 * np.array([s[r:].sum() for s, r in zip(sigma, row.orders, strict=True)])
        assert row.bound == pytest.approx(tail.max(), rel=1e-9)
        error = hinf_norm(difference(old, new))
        assert (error <= tail + 1e-4 * sigma[:, 0]).all()
    assert model.sizes.slots == tuple(layer.slots for layer in model.state_spaces())
    assert model.state_slots() == sum(
        layer.systems * row.slots_after for layer, row in zip(model.state_spaces(), report, strict=True)
    )
    rebuilt = build(model.state_dict())
    assert torch.equal(rebuilt(U), model.eval()(U))


@pytest.mark.parametrize("layout", layouts())
def test_energy_keeps_the_share_it_is_asked_for(layout: str) -> None:
    model, _ = trained(layout)
    sigma = [hankel_singular_values(s).sigma for s in systems(model)]
    _, _, report = truncate(model, energy=0.9)
    for row, values in zip(report, sigma, strict=True):
        share = np.cumsum(values, axis=1) / values.sum(axis=1, keepdims=True)
        if row.slots_after < row.slots_before:
            assert row.energy >= 0.9 - 1e-12
            assert (np.take_along_axis(share, row.orders[:, None] - 2, axis=1) < 0.9).all()  # one state less is too few


def test_layers_that_would_gain_little_are_left_alone() -> None:
    model, optimizer = trained("lru")
    before = copy.deepcopy(model.state_dict())
    _, _, report = truncate(model, optimizer, energy=1.0)
    assert all(row.slots_after == 8 and row.energy == 1 for row in report)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert len(optimizer.state) == len(list(model.parameters()))


@pytest.mark.parametrize("layout", layouts())
def test_the_optimizer_goes_on(layout: str) -> None:
    model, optimizer = trained(layout)
    old = dict(model.named_parameters())
    values = {name: p.detach().clone() for name, p in old.items()}
    moments = {name: copy.deepcopy(optimizer.state[p]) for name, p in old.items()}
    truncate(model, optimizer, max_orders={layer.name: 4 for layer, _ in LiveLayers(model)})
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert optimizer.param_groups[0]["lr"] == 1e-3
    changed = set()
    for name, parameter in model.named_parameters():
        if parameter is old[name] and torch.equal(parameter, values[name]):
            for key, value in moments[name].items():
                assert torch.equal(optimizer.state[parameter][key], value)
        else:
            changed.add(name)
            assert parameter not in optimizer.state
    assert 0 < len(changed) < len(old)
    assert not any(name.endswith(("D", "bias", "encoder.weight")) for name in changed)
    losses = [step(model, optimizer) for _ in range(40)]
    assert losses[-1] < losses[0]
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in model.parameters())
    for name, parameter in model.named_parameters():
        assert optimizer.state[parameter]["step"] == (40 if name in changed else 43)


def test_training_with_a_penalty_and_a_schedule() -> None:
    model, optimizer = trained("s5", steps=0)
    regularizer = HankelRegularizer(model, 1e-3)
    schedule = Schedule.spaced(20, energy=0.95, share=0.5, count=2)
    assert schedule.steps == (5, 10)
    widths = []
    for number in range(1, 21):
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(U), LABELS) + regularizer()).backward()
        optimizer.step()
        if schedule.due(number):
            truncate(model, optimizer, energy=schedule.energy, max_orders=12)
        widths.append(model.sizes.slots)
    assert widths[3] == (8, 8)
    assert max(widths[-1]) <= 7
    assert np.isfinite(regularizer().item())


def test_shared_poles_keep_a_subset() -> None:
    tensors, config = plugins.load("ssmtool.families", "dss").tiny("exp", 0)
    model = holder(tensors)
    before = systems(model, config)
    _, _, report = truncate(model, max_orders=6, config=config)
    for row, old, new in zip(report, before, systems(model, config), strict=True):
        assert row.slots_after == 3
        assert np.isnan(row.bound)
        for s in range(new.systems):
            distance = np.abs(new.a[s][:, None] - old.a[s]).min(axis=1)
            assert (distance < 1e-5 * np.abs(old.a[s]).max()).all()  # float32 tensors


def test_tied_parameters_stay_tied() -> None:
    system = samples.ring(1, 6, 2, 2)
    model = holder(neutral(system, system))
    for leaf in ("lambda_log", "B", "C", "D"):
        tied = model.get_parameter(f"layers.0.{leaf}")
        model.get_submodule("layers.1").register_parameter(leaf, tied)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    truncate(model, optimizer, max_orders=4)
    first, second = systems(model)
    assert first.slots <= 4
    assert model.get_parameter("layers.0.B") is model.get_parameter("layers.1.B")
    np.testing.assert_array_equal(first.a, second.a)
    assert len(optimizer.param_groups[0]["params"]) == 4


def test_nothing_changes_where_one_layer_cannot_be_cut() -> None:
    bad = samples.ring(1, 6, 2, 2)
    bad.a[0, 0] = 0.2j
    model = holder(neutral(samples.ring(1, 6, 2, 2), bad))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnstableError, match=r"layers\.1: 2 states of 1 of 1 systems"):
        truncate(model, max_orders=4)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_results_that_the_model_cannot_hold_are_refused() -> None:
    tensors, config = plugins.load("ssmtool.families", "s4").tiny("v3-diag-zoh", 0)
    spare = [name for name in tensors if name.endswith("kernel.kernel.A")]
    model = holder({name: x for name, x in tensors.items() if name not in spare})
    with pytest.raises(FamilyError, match=f"needs the tensor {spare[0]}, which the model lacks"):
        truncate(model, max_orders=2, config=config)


def test_targets_are_checked() -> None:
    model = holder(neutral(samples.ring(1, 6)))
    with pytest.raises(UsageError, match="no target"):
        truncate(model)
    for energy in (0.0, 1.5):
        with pytest.raises(UsageError, match="energy"):
            truncate(model, energy=energy)
    with pytest.raises(UsageError, match=r"no layer 'layers\.7'"):
        truncate(model, max_orders={"layers.7": 3})
    with pytest.raises(UsageError, match="order 0 is below 1"):
        truncate(model, max_orders=0)


def test_schedules_are_checked() -> None:
    assert Schedule((3, 9), max_orders=(8, 4)).max_order(9) == 4
    assert Schedule((3, 9)).max_order(9) is None
    assert not Schedule((3, 9)).due(4)
    for steps in ((3, 3), (5, 1), (-1, 2)):
        with pytest.raises(UsageError, match="increase"):
            Schedule(steps)
    with pytest.raises(UsageError, match="1 orders for 2"):
        Schedule((1, 2), max_orders=(3,))
    with pytest.raises(UsageError, match="do not fit"):
        Schedule.spaced(10, share=0.1, count=4)
