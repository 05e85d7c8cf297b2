"""The model code of docs/refine.md runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from ssmtool.pipeline.compress import compress
from ssmtool.pipeline.live import load_build
from ssmtool.pipeline.model import load
from ssmtool.pipeline.refine import RefineOptions
from tests.pipeline.live_models import s4d_state, sequences

PAGE = Path(__file__).parents[2] / "docs" / "refine.md"


def test_the_example_refines_a_wrapped_checkpoint(tmp_path):
    code, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "model.py").write_text(code)
    state = {f"module.{name}": x for name, x in s4d_state().items() if ".mix." not in name}
    save_file({name: x.contiguous() for name, x in state.items()}, tmp_path / "model.safetensors")
    done = compress(
        load(tmp_path / "model.safetensors"),
        None,
        rank=4,
        inputs=sequences(40).numpy(),
        build=load_build(f"{tmp_path / 'model.py'}:build"),
        refine=RefineOptions(20, 20),
        device="cpu",
    )
    assert done.refinement is not None
    assert done.refinement.outputs.after < 0.5 * done.refinement.outputs.before
    assert np.all([row.slots == 2 for row in done.layers])
