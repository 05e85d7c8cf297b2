"""One set of inputs and one server of processes for all of these tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.commands import make_inputs
from tests.faults.runs import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: `work` copies it."""
    folder = tmp_path_factory.mktemp("faults") / "inputs"
    make_inputs(folder)
    return folder


@pytest.fixture
def work(inputs: Path, tmp_path: Path) -> Path:
    """A folder with the inputs, beside which the output of runs is written."""
    return Path(shutil.copytree(inputs, tmp_path / "work"))
