"""The modal l1 penalty is the sum of |lambda| over stored slots, computed here by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssmtool.errors import UsageError
from ssmtool.reference.layouts._contract import Sizes
from ssmtool.reference.model import create
from ssmtool.training import ModalL1
from tests.lti import samples
from tests.training.modules import holder, neutral


def test_value_and_gradient() -> None:
    system = samples.ring(2, 3)
    model = holder(neutral(system))
    penalty = ModalL1(model, 0.5)
    value = penalty()
    moduli = np.abs(np.exp(system.a))
    assert value.item() == pytest.approx(0.5 * moduli.sum())
    assert penalty.values() == {"layers.0": pytest.approx(moduli.sum())}
    value.backward()
    poles = model.get_parameter("layers.0.lambda_log")
    assert poles.grad is not None
    np.testing.assert_allclose(poles.grad.numpy(), 0.5 * moduli, rtol=1e-12)  # d |e^a| = |e^a| Re da
    assert model.get_parameter("layers.0.B").grad is None


def test_poles_of_a_reference_model_shrink() -> None:
    model = create("lru", Sizes(1, 4, 3, (4,)), seed=0)
    nu = model.state_spaces()[0].get_parameter("nu_log")
    before = torch.exp(-torch.exp(nu.detach().double()))
    penalty = ModalL1(model, weight=1.0)
    assert penalty().item() == pytest.approx(before.sum().item(), rel=1e-6)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    for _ in range(5):
        optimizer.zero_grad()
        penalty().backward()
        optimizer.step()
    assert (torch.exp(-torch.exp(nu.detach().double())) < before).all()


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(UsageError, match="weight -1"):
        ModalL1(holder(neutral(samples.ring(1, 2))), -1.0)
