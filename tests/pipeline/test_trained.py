"""What balanced truncation costs the trained S4D model in task accuracy."""

from pathlib import Path

import pytest

from ssmtool.pipeline.compress import compress
from ssmtool.pipeline.model import load
from ssmtool.training.evaluate import evaluate

FIXTURE = Path(__file__).parents[2] / "fixtures" / "digits-s4d.safetensors"


@pytest.mark.parametrize(("rank", "points"), [(32, 0.3), (16, 1.5)])
def test_half_and_a_quarter_of_the_states_cost_little(tmp_path: Path, rank: int, points: float) -> None:
    compress(load(FIXTURE), tmp_path / "smaller.safetensors", rank=rank, device="cpu")
    before, after = evaluate(FIXTURE), evaluate(tmp_path / "smaller.safetensors")
    assert 100 * (before.accuracy - after.accuracy) <= points
    assert after.state_slots < before.state_slots


def test_modal_selection_loses_more(tmp_path: Path) -> None:
    accuracy = {}
    for method in ("balanced", "modal"):
        output = tmp_path / f"{method}.safetensors"
        compress(load(FIXTURE), output, rank=32, method=method, device="cpu")
        accuracy[method] = evaluate(output).accuracy
    assert accuracy["balanced"] > accuracy["modal"] + 0.05
