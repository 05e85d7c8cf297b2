"""Order against accuracy on sequential digits: truncation alone, label-free refinement, the same fit on white noise.

The fits see the inputs of the training part without labels. Their settings were chosen with the test part seen for S5
and LRU; the validation part, which no training and no fit has used, stands beside it.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import ssmtool
from ssmtool.checkpoint import open_checkpoint
from ssmtool.pipeline.inputs import read_inputs
from ssmtool.pipeline.refine import RefineOptions
from ssmtool.reference.model import build
from ssmtool.training.loop import logits_of
from ssmtool.training.tasks._contract import open_task

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
ORDERS = {"s4d": (8, 4, 2), "s5": (8,), "lru": (8,)}
STEPS = {"s4d": (60, 180), "s5": (100, 300), "lru": (150, 900)}  # per layer, and for all


def run() -> None:
    torch.set_num_threads(1)
    inputs = read_inputs(FIXTURES / "digits-calibration.npy").array
    print("Accuracy in percent, test (validation); one thread\n")
    print("| model | order | steps | truncated | refined | on noise | seconds of CPU |\n|---|---|---|---|---|---|---|")
    for name, orders in ORDERS.items():
        path = FIXTURES / f"digits-{name}.safetensors"
        print(f"| {name} | 64 | | {accuracy(path)} | | | |", flush=True)
        model = ssmtool.load(path)
        steps, final = STEPS[name]
        options = RefineOptions(steps, final=final, outputs="classes")
        for order in orders:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder)
                ssmtool.compress(model, out / "plain.safetensors", rank=order)
                start = time.process_time()
                ssmtool.compress(model, out / "fit.safetensors", rank=order, inputs=inputs, refine=options)
                seconds = time.process_time() - start
                noise = noise_like(inputs)
                ssmtool.compress(model, out / "noise.safetensors", rank=order, inputs=noise, refine=options)
                cells = [accuracy(out / f"{kind}.safetensors") for kind in ("plain", "fit", "noise")]
                print(f"| {name} | {order} | {steps} + {final} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


def noise_like(inputs: np.ndarray) -> np.ndarray:
    """White noise with the inputs' mean and standard deviation."""
    rng = np.random.default_rng(0)
    return (inputs.mean() + inputs.std() * rng.standard_normal(inputs.shape)).astype(inputs.dtype)


def accuracy(path: Path) -> str:
    return f"{100 * ssmtool.evaluate(path).accuracy:.2f} ({100 * on_validation(path):.2f})"


def on_validation(path: Path) -> float:
    source = open_checkpoint(path)
    model = build({name: source.read(name) for name in source.tensors}, where=str(path)).float()
    task = open_task("digits", None)
    inputs, labels = task.load("validation")
    found = logits_of(model, task, inputs, torch.device("cpu")).argmax(-1)
    return (found == labels).float().mean().item()
