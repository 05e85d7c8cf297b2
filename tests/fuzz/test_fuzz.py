"""Half a minute of damaged files for every reader. `make fuzz` does the same for as long as one likes, at random."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.every import TARGETS
from tests.fuzz.hold import held, undamaged
from tests.fuzz.targets import Case, cases

NOTHING_IS_REFUSED = ("cache", "card", "record", "inspect", "hsv", "compress")
"""A damaged entry or record is none, every text is a card, and what a command refuses is looked at where it is run."""


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_read_or_refused_in_one_line(name: str) -> None:
    target, lines = TARGETS[name], set()
    undamaged(target)

    # derandomized: the same inputs in every run, so that what fails here fails for everybody
    @settings(
        max_examples=target.examples, derandomize=True, database=None, deadline=None,
        suppress_health_check=[*HealthCheck],  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    @given(cases)
    def hold(case: Case) -> None:
        lines.add(held(target, case))

    hold()
    assert lines - {""} or name in NOTHING_IS_REFUSED, "no damage was noticed"
