"""Tiny checkpoints, and a way to run the command line inside the test process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from ssmtool import plugins
from ssmtool.__main__ import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]
Change = Callable[[dict[str, np.ndarray]], None]
Tiny = Callable[..., Path]


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """Saves a tiny checkpoint of a family, after `change(tensors)`: a directory if it needs a config.json."""

    def save(family: str, variant: str, change: Change | None = None) -> Path:
        tensors, config = plugins.load("ssmtool.families", family).tiny(variant, 0)
        if change:
            change(tensors)
        path = tmp_path / (family if config is not None else f"{family}.safetensors")
        weights = path
        if config is not None:
            path.mkdir()
            weights = path / "model.safetensors"
            (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        save_file({name: np.array(array, order="C", copy=True) for name, array in tensors.items()}, weights)
        return path

    return save


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `ssmtool *args` in this process."""

    def call(*args: object) -> Outcome:
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def s4d(tiny: Tiny) -> Path:
    """Two S4D layers of four channels, three stored modes each: s4_layers.0 and s4_layers.1."""
    return tiny("s4d", "s4d")


@pytest.fixture
def unstable(tiny: Tiny) -> Path:
    """Two neutral layers of three systems, 8 states each; the first has one pair of modes outside the unit circle."""

    def push_out(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.layers.0.ssm.lambda_log"][0, 0, 0] = 0.01

    return tiny("neutral", "batch", push_out)


@pytest.fixture
def redundant(tiny: Tiny) -> Path:
    """S4D with one mode of the first layer switched off in every channel: C = 0."""

    def silence(tensors: dict[str, np.ndarray]) -> None:
        tensors["s4_layers.0.kernel.C"][:, 0] = 0.0

    return tiny("s4d", "s4d", silence)
