"""Order against accuracy on sequential digits: truncation alone, label-free refinement, the same fit on white noise.

The fits see the training part's inputs without labels; accuracy is that of the 360 test sequences.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import ssmtool
from ssmtool.pipeline.inputs import read_inputs
from ssmtool.pipeline.refine import RefineOptions

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
ORDERS = {"s4d": (8, 4, 2), "s5": (16, 8), "lru": (16, 8)}
STEPS = {"s4d": 300, "s5": 300, "lru": 300}


def run() -> None:
    inputs = read_inputs(FIXTURES / "digits-calibration.npy").array
    print("| model | order | truncated | refined | on noise | seconds |\n|---|---|---|---|---|---|")
    for name, orders in ORDERS.items():
        path = FIXTURES / f"digits-{name}.safetensors"
        print(f"| {name} | 64 | | {accuracy(path)} | | |", flush=True)
        model = ssmtool.load(path)
        for order in orders:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder)
                ssmtool.compress(model, out / "plain.safetensors", rank=order)
                start = time.perf_counter()
                options = RefineOptions(STEPS[name], outputs="classes")
                ssmtool.compress(model, out / "fit.safetensors", rank=order, inputs=inputs, refine=options)
                seconds = time.perf_counter() - start
                noise = noise_like(inputs)
                ssmtool.compress(model, out / "noise.safetensors", rank=order, inputs=noise, refine=options)
                cells = [accuracy(out / f"{kind}.safetensors") for kind in ("plain", "fit", "noise")]
                print(f"| {name} | {order} | {cells[0]} | {cells[1]} | {cells[2]} | {seconds:.0f} |", flush=True)


def noise_like(inputs):
    """White noise with the inputs' mean and standard deviation."""
    import numpy as np

    rng = np.random.default_rng(0)
    return (inputs.mean() + inputs.std() * rng.standard_normal(inputs.shape)).astype(inputs.dtype)


def accuracy(path: Path) -> str:
    return f"{100 * ssmtool.evaluate(path).accuracy:.2f}"
