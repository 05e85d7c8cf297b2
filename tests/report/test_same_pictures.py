"""Pictures of hsv and diagnose: the same bytes in every process, whatever a layout's solver does to last digits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.layout_engine import ConstrainedLayoutEngine
from safetensors.numpy import save_file

from ssmtool import plugins
from ssmtool.analyses._contract import Curve, Panel
from ssmtool.report.plot import save_plot
from ssmtool.report.section_plot import save_section

DRAW = """
import sys
from ssmtool.__main__ import main
model, folder = sys.argv[1:]
assert main(["hsv", model, "--no-cache", "-q", "--plot", f"{folder}/hsv.pdf"]) == 0
assert main(["diagnose", model, "-q", "--section", "timescales", "--plot", f"{folder}/parts.pdf"]) == 0
"""
PANELS = [
    Panel("a", "x", "y", (Curve((1.0, 2.0, 3.0), (1.0, 4.0, 2.0), "one"), Curve((1.0, 3.0), (2.0, 2.0), "two"))),
    Panel("b", "layer", "y", (Curve((0.0, 1.0), (1e-3, 1.0)),), y_log=True),
]


def test_two_processes_draw_the_same(tmp_path):
    tensors, _ = plugins.load("ssmtool.families", "neutral").tiny("batch", 0)
    model = tmp_path / "model.safetensors"
    save_file({name: np.array(x, order="C") for name, x in tensors.items()}, model)
    found = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", DRAW, model, folder], env=environment, check=True)
        found.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert found[0].keys() == found[1].keys() == {"hsv.pdf", "parts.pdf"}
    assert [name for name in found[0] if found[0][name] != found[1][name]] == []


@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
@pytest.mark.parametrize("kind", ["few layers", "many layers", "section"])
def test_last_digits_of_the_layout_are_not_seen(spectra, tmp_path, monkeypatch, suffix, kind):
    """Every pair of axes off by up to 1e-10 of the figure, a hundred thousand times what rounding does."""

    def draw(path: Path) -> bytes:
        if kind == "section":
            save_section(PANELS, path, "title")
        else:
            save_plot(spectra(3 if kind == "few layers" else 14, 3, 8), path, "title")
        return path.read_bytes()

    plain = draw(tmp_path / f"plain{suffix}")
    execute, rng, moved = ConstrainedLayoutEngine.execute, np.random.default_rng(0), []

    def shaken(self, fig):
        execute(self, fig)
        for axis in fig.axes:
            off = rng.uniform(-1e-10, 1e-10, 4)
            axis._set_position([*(np.array(axis.get_position(original=True).bounds) + off)], which="original")
            moved.append(off)

    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", shaken)
    assert draw(tmp_path / f"shaken{suffix}") == plain
    assert len(moved) >= 2
