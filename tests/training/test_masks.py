"""Masked modes: which ones go by the scores, and that exactly those are gone from the model's output."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from ssmtool.errors import ReductionError, UnstableError, UsageError
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.impulse import impulse_response
from ssmtool.pipeline.live_layers import LiveLayers, diagonal_system
from ssmtool.reductions.modal import normalised, scores
from ssmtool.reference.layouts._contract import Sizes
from ssmtool.reference.model import create, layouts
from ssmtool.training import mask_modes
from ssmtool.training.live_writing import arrays_of
from tests.lti import samples
from tests.training.modules import holder, neutral


def systems(model: torch.nn.Module) -> list:
    return [diagonal_system(layer, arrays_of(tensors)) for layer, tensors in LiveLayers(model)]


def test_scores_are_the_gain_and_the_energy_of_each_mode_alone() -> None:
    system = samples.ring(1, 5, 2, 3)
    for i in range(5):
        one = samples.slots(system, [i])
        b, c, radius = np.linalg.norm(one.B), np.linalg.norm(one.C), np.abs(np.exp(one.a[0, 0]))
        assert scores(system, "last")[0, i] == pytest.approx((b * c / (1 - radius)) ** 2)
        # the complex mode's own impulse response C lambda^k B, summed over 4000 steps of radius at most 0.99
        energy = sum((b * c * radius**k) ** 2 for k in range(4000))
        assert scores(system, "aire")[0, i] == pytest.approx(energy)


def test_relative_scores_divide_by_the_sum_of_all_larger_ones() -> None:
    np.testing.assert_allclose(normalised(np.array([[2.0, 6.0, 0.0, 4.0]])), [[2 / 12, 1.0, 0.0, 4 / 10]])
    np.testing.assert_array_equal(normalised(np.zeros((1, 3))), np.zeros((1, 3)))


@pytest.mark.parametrize("score", ["last", "aire"])
def test_the_least_modes_of_all_layers_go(score: str) -> None:
    parts = samples.ring(1, 6, 2, 2), samples.ring(3, 4, seed=1)
    model = holder(neutral(*parts))
    result = mask_modes(model, 0.5, score)
    assert (result.modes, result.silenced) == (18, 9)
    ranks = [normalised(scores(system, score).reshape(1, -1)).reshape(system.a.shape) for system in parts]
    cut = np.sort(np.concatenate([rank.ravel() for rank in ranks]))[9]
    for i, (system, rank, now) in enumerate(zip(parts, ranks, systems(model), strict=True)):
        on = rank >= cut
        assert result.kept[f"layers.{i}"] == on.sum()
        # the impulse response of what is left is that of the kept slots alone
        kept = samples.DiagonalSystem(system.a, system.B, np.where(on[:, None], system.C, 0), system.D)
        expected = impulse_response(kept, 20)
        np.testing.assert_allclose(impulse_response(now, 20), expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("layout", layouts())
def test_reference_models_are_masked_in_place(layout: str) -> None:
    model = create(layout, Sizes(1, 4, 3, (6, 6)), seed=0)
    u = torch.randn(2, 30, 1, generator=torch.Generator().manual_seed(0))
    same = copy.deepcopy(model)
    assert mask_modes(same, 0.0).silenced == 0
    assert torch.equal(same(u), model(u))
    shapes = {name: p.shape for name, p in model.named_parameters()}
    before, parameters = [hankel_singular_values(s).sigma for s in systems(model)], dict(model.named_parameters())
    result = mask_modes(model, 0.4)
    assert result.silenced == int(0.4 * result.modes)
    assert {name: p.shape for name, p in model.named_parameters()} == shapes
    assert all(p is parameters[name] for name, p in model.named_parameters())
    after = [hankel_singular_values(s).sigma for s in systems(model)]
    silent = sum(int((s == 0).sum()) - int((t == 0).sum()) for s, t in zip(after, before, strict=True))
    assert silent == 2 * result.silenced  # two states each
    assert torch.isfinite(model(u)).all()


def test_bad_input_is_refused() -> None:
    model = holder(neutral(samples.ring(1, 2), samples.ring(1, 40, seed=2)))
    with pytest.raises(UsageError, match="no score 'best'"):
        mask_modes(model, 0.5, "best")
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match="share"):
            mask_modes(model, share)
    bad = samples.ring(1, 3)
    bad.a[0, 0] = 0.1
    with pytest.raises(UnstableError, match=r"layers\.0: 2 states of 1 of 1 systems"):
        mask_modes(holder(neutral(bad)), 0.5)
    silent = samples.ring(1, 2)
    silent.B[:] = 0
    with pytest.raises(ReductionError, match=r"layers\.1: share 0\.5 leaves no mode"):
        mask_modes(holder(neutral(samples.ring(1, 2), silent)), 0.5)
