"""Accuracy on sequential digits after dropping states, of models trained with and without regularisers; three seeds.

Every model is trained by `ssmtool train` into runs/truncation/ (an interrupted run goes on, a finished one stays), then
reduced by `compress` and measured on the 360 test sequences. All start with order 128; a share of 90 % leaves 12.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean

import ssmtool
from ssmtool.errors import ReductionError

ORDER = 128
COMMON = ["--task", "digits", "--model", "s5", "--width", "32", "--slots", str(ORDER // 2), "--epochs", "150"]
VARIANTS = {
    "none": [],
    "hankel-log:5e-4": ["--reg", "hankel-log:5e-4"],
    "modal-l1:1e-4": ["--reg", "modal-l1:1e-4"],
    "in training": ["--truncate", "energy:0.99@0.1,energy:0.99@0.2,energy:0.99@0.3"],
}
METHODS = {"none": ("balanced", "modal"), "modal-l1:1e-4": ("balanced", "modal")}
SHARES = (50, 60, 70, 80, 90, 95)
SEEDS = (0, 1, 2)
RUNS = Path("runs/truncation")


def run() -> None:
    print(f"| trained with | reduced by | 0 % | {' | '.join(f'{share} %' for share in SHARES)} |")
    print("|---|---|" + "---|" * (len(SHARES) + 1))
    for variant, options in VARIANTS.items():
        folders = [trained(variant, options, seed) for seed in SEEDS]
        for method in METHODS.get(variant, ("balanced",)):
            rows = [[ssmtool.evaluate(f).accuracy, *(truncated(f, method, share) for share in SHARES)] for f in folders]
            cells = [f"{100 * mean(column):.2f} ({100 * min(column):.2f})" for column in zip(*rows, strict=True)]
            print(f"| {variant} | {method} | {' | '.join(cells)} |", flush=True)
    print(f"\nMean over seeds {SEEDS} (lowest).")


def trained(variant: str, options: list[str], seed: int) -> Path:
    """The checkpoint of one run."""
    folder = RUNS / f"{variant.replace(':', '-').replace(' ', '-')}-{seed}"
    command = [sys.executable, "-m", "ssmtool", "train", *COMMON, *options, "--seed", str(seed), "--threads", "1"]
    subprocess.run([*command, "-q", "-o", str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder / "model.safetensors"


def truncated(path: Path, method: str, share: int) -> float:
    """Accuracy with a share of the original order dropped; a model that is smaller already stays as it is."""
    model = ssmtool.load(path)
    rank = ORDER * (100 - share) // 100
    if max(layer.order for layer in model.layers) <= rank:
        return ssmtool.evaluate(path).accuracy
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.safetensors"
        try:
            ssmtool.compress(model, small, rank=rank, method=method)
        except ReductionError:  # real poles take a slot each: nothing becomes smaller
            return ssmtool.evaluate(path).accuracy
        return ssmtool.evaluate(small).accuracy
