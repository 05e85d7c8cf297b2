"""Training: a short run learns, repeats itself, and never sees the test part."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ssmtool.reference.model import layouts
from ssmtool.training.loop import train
from ssmtool.training.recipe import RECIPES, Recipe
from ssmtool.training.tasks import digits

TINY = Recipe("s4d", width=8, depth=1, slots=4, epochs=2, batch=64, rate=1e-2, dropout=0.0, averaging=0.5)


def test_there_is_a_recipe_for_every_layout() -> None:
    assert set(RECIPES) == set(layouts())
    assert all(recipe.layout == name for name, recipe in RECIPES.items())


@pytest.mark.parametrize("layout", layouts())
def test_two_epochs_reduce_the_loss(layout: str) -> None:
    reported = []
    model, history = train(replace(TINY, layout=layout), seed=0, report=reported.append)
    assert tuple(reported) == history
    assert [epoch.number for epoch in history] == [1, 2]
    assert history[1].loss < history[0].loss
    assert not model.training
    assert model.sizes.slots == (4,)


def test_the_same_seed_gives_the_same_weights_and_never_reads_the_test_part(monkeypatch: pytest.MonkeyPatch) -> None:
    load, asked = digits.load, set()

    def recording(part: str) -> tuple[torch.Tensor, torch.Tensor]:
        asked.add(part)
        return load(part)

    monkeypatch.setattr(digits, "load", recording)
    recipe = replace(TINY, epochs=1)
    first, again = (train(recipe, seed=5)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert asked == {"train", "validation"}


def test_parts_are_disjoint_stratified_and_complete() -> None:
    parts = {part: digits.load(part) for part in digits.PARTS}
    assert {part: len(labels) for part, (_, labels) in parts.items()} == {"train": 1257, "validation": 180, "test": 360}
    for inputs, labels in parts.values():
        assert inputs.shape == (len(labels), digits.LENGTH, digits.INPUTS)
        assert inputs.dtype == torch.float32
        assert inputs.min() == -1
        assert inputs.max() == 1
        counts = torch.bincount(labels, minlength=digits.CLASSES).double() / len(labels)
        assert (counts - 0.1).abs().max() < 0.01
    from sklearn.datasets import load_digits

    every = torch.cat([inputs.flatten(1) for inputs, _ in parts.values()])
    images = torch.from_numpy(load_digits(return_X_y=True)[0]).float().reshape(-1, 8, 8) / 16
    original = digits.sequences(images).flatten(1)
    assert torch.equal(every.unique(dim=0, return_counts=True)[0], original.unique(dim=0, return_counts=True)[0])


def test_augmentation_of_strength_zero_is_the_identity() -> None:
    inputs, _ = digits.load("validation")
    same = digits.augment(inputs, torch.Generator().manual_seed(0), strength=0.0)
    torch.testing.assert_close(same, inputs, rtol=0, atol=1e-5)
    moved = digits.augment(inputs, torch.Generator().manual_seed(0))
    assert moved.shape == inputs.shape
    assert 0.05 < (moved - inputs).abs().mean() < 0.5
