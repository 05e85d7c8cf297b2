"""What the trained language models lose on held-out text; the README has the whole table (make bench)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ssmtool
from ssmtool.pipeline.calibrate import calibrate
from ssmtool.pipeline.language import LanguageComparison, compare
from ssmtool.pipeline.runner import with_mixers
from ssmtool.pipeline.selective_hsv import on_runner
from ssmtool.pipeline.selective_layers import Parts, shrunk
from ssmtool.selective.choices import Export, Select
from ssmtool.selective.language import Runner
from ssmtool.selective.statistics import Calibration

FIXTURES = Path(__file__).parents[2] / "fixtures"


class Trained:
    """A fixture with its moments on 48 calibration sequences, and 24 held-out sequences."""

    def __init__(self, name: str) -> None:
        model = ssmtool.load(FIXTURES / name)
        self.runner: Runner = ssmtool.open_runner(model, "cpu")
        self.mixers: Parts = {layer.name: model.mixers(layer) for layer in model.layers}
        tokens = np.load(FIXTURES / "stdlib-calibration.npy")[::6].astype(np.int64)
        self.moments: dict[str, tuple[Calibration, ...]] = calibrate(
            self.runner, on_runner(self.mixers, self.runner), tokens
        )
        self.held_out = np.load(FIXTURES / "stdlib-heldout.npy")[::6].astype(np.int64)

    def loss(self, rank: int, how: Select = Select.elimination, export: Export = Export.stock) -> LanguageComparison:
        small, _ = shrunk(self.mixers, self.moments, rank, export, how, None, 0)
        return compare(self.runner, with_mixers(self.runner, on_runner(small, self.runner)), self.held_out)


@pytest.fixture(scope="module")
def mamba2() -> Trained:
    return Trained("bytes-mamba2")


@pytest.fixture(scope="module")
def mamba() -> Trained:
    return Trained("bytes-mamba")


@pytest.mark.parametrize(("rank", "percent", "kl"), [(32, 0.4, 0.003), (16, 0.6, 0.01)])
def test_projection_costs_next_to_nothing(mamba2: Trained, rank: int, percent: float, kl: float) -> None:
    # The change of the perplexity on so few sequences is known to a few tenths of a percent only; KL is steadier.
    found = mamba2.loss(rank, export=Export.projected)
    assert found.increase < percent
    assert found.kl < kl
    assert found.kl < mamba2.loss(rank, Select.ghost).kl / 4


def test_mixing_and_elimination_beat_selection_by_a_score(mamba: Trained) -> None:
    ours, ghost = mamba.loss(8), mamba.loss(8, Select.ghost)
    assert ours.increase < 0.7 * ghost.increase
    assert ours.kl < 0.7 * ghost.kl


def test_one_state_is_not_enough(mamba2: Trained, mamba: Trained) -> None:
    """The control: what is lost with a single state shows that the states are used at all."""
    assert mamba2.loss(1, export=Export.projected).kl > 5 * mamba2.loss(16, export=Export.projected).kl
    assert mamba.loss(1).kl > 5 * mamba.loss(8).kl
