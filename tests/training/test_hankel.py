"""The Hankel regulariser on living models: the right layers, the right values, gradients where they belong.

Truth is `hankel_singular_values` of the systems that the families make of the same tensors as arrays.
"""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ssmtool.training
from ssmtool import plugins
from ssmtool.errors import FamilyError, UnstableError, UsageError
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.reference.layouts._contract import Sizes
from ssmtool.reference.model import create, layouts
from ssmtool.training import HankelRegularizer
from tests.lti import samples
from tests.training.modules import holder, neutral

PACKAGE = "ssmtool.families"
LINEAR = [
    (family, variant)
    for family in plugins.names(PACKAGE)
    if hasattr(plugins.load(PACKAGE, family), "to_system")
    for variant in plugins.load(PACKAGE, family).VARIANTS
]


def nuclear_norm(*systems) -> float:
    return sum(float(hankel_singular_values(system).sigma.sum()) for system in systems)


@pytest.mark.parametrize("layout", layouts())
def test_two_lines_in_a_training_loop_lower_the_nuclear_norm(layout: str) -> None:
    torch.manual_seed(0)
    model = create(layout, Sizes(1, 4, 3, (4, 4)), seed=0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    u, target = torch.randn(8, 20, 1), torch.randint(3, (8,))
    regularizer = HankelRegularizer(model, weight=1e-2)
    before = sum(regularizer.values().values())
    for _ in range(10):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(u), target)
        loss = loss + regularizer()
        loss.backward()
        optimizer.step()
        for layer in model.state_spaces():
            layer.constrain()
    assert loss.dtype == torch.float32
    assert sum(regularizer.values().values()) < 0.95 * before


@pytest.mark.parametrize("layout", layouts())
def test_only_state_space_parameters_but_the_feedthrough_are_pulled(layout: str) -> None:
    model = create(layout, Sizes(1, 3, 3, (4, 2)), seed=0)
    HankelRegularizer(model)().backward()
    state = {id(p) for layer in model.state_spaces() for p in layer.state_parameters()}
    for name, parameter in model.named_parameters():
        pulled = parameter.grad is not None and bool((parameter.grad != 0).any())
        assert pulled == (id(parameter) in state and name.rpartition(".")[2] not in ("D", "sys_feed")), name


@pytest.mark.parametrize(("family", "variant"), LINEAR, ids=[f"{f}-{v}" for f, v in LINEAR])
def test_layers_of_every_family_are_found_in_a_module(family: str, variant: str) -> None:
    module = plugins.load(PACKAGE, family)
    tensors, config = module.tiny(variant, 2)
    if "dplr" in variant or "nplr" in variant:
        with pytest.raises(UsageError, match="diagonal plus low rank"):
            HankelRegularizer(holder(tensors), config=config)()
        return
    model = holder(tensors)
    regularizer = HankelRegularizer(model, weight=0.5, config=config)
    value = regularizer()
    value.backward()
    expected = 0.0
    for layer in regularizer.live.find(dict(model.state_dict())):
        arrays = {role: tensors[name] for role, name in layer.tensors.items()}
        wide = {role: x.astype(np.complex128 if x.dtype.kind == "c" else np.float64) for role, x in arrays.items()}
        expected += 0.5 * nuclear_norm(module.to_system(layer, wide))
    assert value.item() == pytest.approx(expected, rel=1e-6)  # returned in float32
    assert any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in model.parameters())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.model.", "trunk.backbone."])
def test_prefixes_and_buffers(prefix: str) -> None:
    systems = samples.ring(1, 3, 2, 2), samples.ring(3, 4)
    tensors = {prefix + name: x for name, x in neutral(*systems).items()}
    for buffers in (False, True):
        model = holder(tensors, buffers=buffers)
        model.add_module("head", nn.Linear(2, 2, dtype=torch.float64))
        regularizer = HankelRegularizer(model, 2.0)
        assert regularizer().item() == pytest.approx(2 * nuclear_norm(*systems), rel=1e-12)
        assert regularizer().dtype == torch.float64


def test_values_name_the_layers_and_layers_can_be_chosen() -> None:
    first, second = samples.ring(1, 3, 2, 2), samples.ring(3, 4, seed=1)
    model = holder(neutral(first, second))
    values = HankelRegularizer(model).values()
    assert values == {
        "layers.0": pytest.approx(nuclear_norm(first)),
        "layers.1": pytest.approx(nuclear_norm(second)),
    }
    chosen = HankelRegularizer(model, 1.0, layers=["*.1"])
    assert chosen().item() == pytest.approx(nuclear_norm(second))
    with pytest.raises(UsageError, match=r"layers\.0, layers\.1"):
        HankelRegularizer(model, layers=["encoder"])


def test_configuration_says_what_tensors_do_not() -> None:
    module = plugins.load(PACKAGE, "s4")
    tensors, _ = module.tiny("v4-diag", 0)
    held, bilinear = (
        HankelRegularizer(holder(tensors), config={"disc": disc})().item() for disc in ("zoh", "bilinear")
    )
    assert held != pytest.approx(bilinear, rel=1e-3)


def test_drawn_channels_stand_for_all() -> None:
    """Of two systems one is drawn, counts twice, and over many steps both are."""
    system = samples.ring(2, 3)
    each = [2 * nuclear_norm(samples.pick(system, s)) for s in (0, 1)]
    regularizer = HankelRegularizer(holder(neutral(system)), 1.0, channels=1, seed=3)
    drawn = [regularizer().item() for _ in range(40)]
    first = [abs(x - each[0]) < 1e-9 * each[0] for x in drawn]
    second = [abs(x - each[1]) < 1e-9 * each[1] for x in drawn]
    assert all(a != b for a, b in zip(first, second, strict=True))
    assert 8 <= sum(first) <= 32  # 20 +- 4 standard deviations of a fair coin
    resumed = HankelRegularizer(holder(neutral(system)), 1.0, channels=1, seed=3)
    for _ in range(15):
        resumed()
    again = HankelRegularizer(holder(neutral(system)), 1.0, channels=1, seed=3)
    again.load_state_dict(resumed.state_dict())
    assert [again().item() for _ in range(25)] == drawn[15:]


def doubled(model: nn.Module) -> None:
    """Twice the output weights: twice every singular value."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".C"):
                parameter.mul_(2)


def test_refreshing_takes_turns_and_reuses_gradients() -> None:
    first, second = samples.ring(2, 3), samples.ring(1, 2, 2, 2)
    model = holder(neutral(first, second))
    regularizer = HankelRegularizer(model, 1.0, refresh=3)
    whole = nuclear_norm(first, second)
    assert regularizer().item() == pytest.approx(whole)
    doubled(model)
    each = [nuclear_norm(samples.pick(first, 0)), nuclear_norm(samples.pick(first, 1)), nuclear_norm(second)]
    values = [regularizer().item() for _ in range(3)]
    steps = np.diff([whole, *values])
    assert sorted(steps) == pytest.approx(sorted(each))  # one system's value doubles in each step
    assert values[-1] == pytest.approx(2 * whole)
    # all gradients are those of the doubled model now, although each was evaluated in another step
    regularizer().backward()
    exact = holder(neutral(first, second))
    doubled(exact)
    HankelRegularizer(exact, 1.0)().backward()
    for (name, p), q in zip(model.named_parameters(), exact.parameters(), strict=True):
        if not name.endswith(".D"):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=0)


def test_steps_may_be_accumulated_before_going_backward() -> None:
    system = samples.ring(4, 3)
    model = holder(neutral(system))
    regularizer = HankelRegularizer(model, 1.0, refresh=2)
    torch.stack([regularizer() for _ in range(4)]).sum().backward()
    single = holder(neutral(system))
    HankelRegularizer(single, 4.0)().backward()
    for p, q in zip(model.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=0)


def test_a_resumed_run_reuses_the_same_gradients() -> None:
    def run(model: nn.Module, regularizer: HankelRegularizer, steps: int) -> list[float]:
        optimizer, values = torch.optim.SGD(model.parameters(), 1e-3), []
        for _ in range(steps):
            optimizer.zero_grad()
            value = regularizer()
            value.backward()
            optimizer.step()
            values.append(value.item())
        return values

    system = samples.ring(5, 3)
    model = holder(neutral(system))
    whole = run(model, HankelRegularizer(model, 1.0, refresh=4), 12)
    model = holder(neutral(system))
    begun = HankelRegularizer(model, 1.0, refresh=4)
    run(model, begun, 6)
    resumed = HankelRegularizer(model, 1.0, refresh=4)
    resumed.load_state_dict(begun.state_dict())
    assert run(model, resumed, 6) == whole[6:]


def test_new_parameters_of_another_size_are_found() -> None:
    model = holder(neutral(samples.ring(1, 5, 2, 2)))
    regularizer = HankelRegularizer(model, 1.0)
    regularizer()
    smaller = samples.ring(1, 2, 2, 2, seed=4)
    layer = model.get_submodule("layers.0")
    for leaf, x in (("lambda_log", smaller.a), ("B", smaller.B), ("C", smaller.C)):
        layer.register_parameter(leaf, nn.Parameter(torch.tensor(x)))
    assert regularizer().item() == pytest.approx(nuclear_norm(smaller))


def test_unstable_and_broken_layers_are_named() -> None:
    good, bad = samples.ring(1, 3, 2, 2), samples.ring(1, 3, 2, 2)
    bad.a[0, 1] = 0.5j
    with pytest.raises(UnstableError, match=r"layers\.1: 1 of 3 stored eigenvalues"):
        HankelRegularizer(holder(neutral(good, bad)))()
    bad.a[0, 1] = -0.5
    bad.C[0, 0, 0] = np.nan
    with pytest.raises(UsageError, match=r"layers\.1: 1 numbers of C are NaN"):
        HankelRegularizer(holder(neutral(good, bad)))()


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_selective_layers_are_refused_with_advice(family: str) -> None:
    module = plugins.load(PACKAGE, family)
    tensors, config = module.tiny(module.VARIANTS[0], 0)
    with pytest.raises(UsageError, match=r"input-dependent.*weight decay.*calibration"):
        HankelRegularizer(holder(tensors), config=config)


def test_options_out_of_range_and_models_without_layers() -> None:
    model = holder(neutral(samples.ring(1, 3)))
    wrong: dict[str, list[Any]] = {"weight": [-1.0, math.nan], "channels": [0], "refresh": [0], "kind": ["rank"]}
    for options in ({name: value} for name, values in wrong.items() for value in values):
        with pytest.raises(UsageError):
            HankelRegularizer(model, **options)
    with pytest.raises(UsageError, match="channels and refresh"):
        HankelRegularizer(model, channels=2, refresh=2)
    with pytest.raises(UsageError, match="no family 's6'"):
        HankelRegularizer(model, family="s6")
    with pytest.raises(FamilyError, match="no known state-space layer among the 2 tensors of Linear"):
        HankelRegularizer(nn.Linear(2, 2))


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, ssmtool.training; print('torch' in sys.modules, 'HankelRegularizer' in dir(ssmtool.training))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'Regularizer'"):
        ssmtool.training.Regularizer  # noqa: B018
