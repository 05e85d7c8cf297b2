"""Thirty seconds of damaged files for every reader. `make fuzz` does the same for as long as one likes, at random."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings

from tests.fuzz.guard import refused_or_read
from tests.fuzz.targets import TARGETS, Case, cases, write_case


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_read_or_refused_in_one_line(name: str) -> None:
    target = TARGETS[name]
    makings = len(target.files())

    # derandomized: the same inputs in every run, so that what fails here fails for everybody
    @settings(
        max_examples=target.examples, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(cases)
    @example((0, 0, []))
    def hold(case: Case) -> None:
        folder = Path(tempfile.mkdtemp())
        try:
            write_case(target, case, folder)
            line = refused_or_read(target.call, folder)
            assert case[2] or not line or name in ("safetensors", "index", "pickle", "hub")
        finally:
            shutil.rmtree(folder)

    for making in range(makings):  # undamaged, every making is read: a reader that refuses everything holds nothing
        folder = Path(tempfile.mkdtemp())
        try:
            write_case(target, (making, 0, []), folder)
            target.call(folder)  # outside of the watch: what is imported late is imported now
            assert refused_or_read(target.call, folder) == ""
        finally:
            shutil.rmtree(folder)
    hold()
