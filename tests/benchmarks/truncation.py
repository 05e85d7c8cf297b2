"""Accuracy after dropping states, of models trained with and without regularisers; three seeds.

Every model is trained by `ssmtool train` into runs/truncation/ (an interrupted run goes on, a finished one stays), one
process per core, then reduced by `compress` and measured on the task's test part.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean

import torch

import ssmtool
from ssmtool.errors import ReductionError

SHARES = (50, 60, 70, 80, 90, 95)
SEEDS = (0, 1, 2)
RUNS = Path("runs/truncation")
VARIANTS = {
    "no regulariser": [],
    "hankel-log:1e-3": ["--reg", "hankel-log:1e-3"],
    "modal-l1:1e-3": ["--reg", "modal-l1:1e-3"],
    "in training, to 12": ["--truncate", "order:64@0.1,order:32@0.2,order:12@0.3"],
}
METHODS = {"no regulariser": ("balanced", "modal"), "modal-l1:1e-3": ("balanced", "modal")}


@dataclass(frozen=True)
class Study:
    """A task and the models trained on it, before any variant."""

    task: str
    order: int
    options: tuple[str, ...]


STUDIES = {
    "digits": Study("digits", 128, ("--width", "64", "--slots", "64", "--epochs", "120")),
    "listops": Study(
        "listops:min_length=8,max_length=64,max_depth=4,max_args=5,train=20000",
        64,
        ("--width", "48", "--depth", "4", "--slots", "32", "--epochs", "6"),
    ),
}


def run() -> None:
    torch.set_num_threads(1)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda case: train(*case), product(STUDIES, VARIANTS, SEEDS)))
    for name, study in STUDIES.items():
        print(f"\n{name}: order {study.order}; mean over seeds {SEEDS} (lowest)\n")
        print(f"| trained with | reduced by | order | 0 % | {' | '.join(f'{share} %' for share in SHARES)} |")
        print("|---|---|---|---|" + "---|" * len(SHARES))
        for variant in VARIANTS:
            for method in METHODS.get(variant, ("balanced",)):
                print(row(name, variant, method), flush=True)


def folder(study: str, variant: str, seed: int) -> Path:
    kept = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in variant)
    return RUNS / f"{study}-{kept}-{seed}"


def train(study: str, variant: str, seed: int) -> None:
    chosen = STUDIES[study]
    command = [sys.executable, "-m", "ssmtool", "train", "--task", chosen.task, "--model", "hankelreg"]
    command += [*chosen.options, *VARIANTS[variant], "--seed", str(seed), "--threads", "1", "-q"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = str(folder(study, variant, seed))
    subprocess.run([*command, "-o", out], check=True, stdout=subprocess.DEVNULL, env=one_thread)


def row(study: str, variant: str, method: str) -> str:
    """A line of the table: the order trained to, accuracy in percent at no truncation and at every share."""
    orders, seeds = [], []
    for seed in SEEDS:
        path = folder(study, variant, seed) / "model.safetensors"
        orders.append(max(layer.order for layer in ssmtool.load(path).layers))
        seeds.append([accuracy(study, path), *(truncated(study, path, method, share) for share in SHARES)])
    cells = [f"{mean(column):.2f} ({min(column):.2f})" for column in zip(*seeds, strict=True)]
    return f"| {variant} | {method} | {'/'.join(map(str, sorted(set(orders))))} | {' | '.join(cells)} |"


def accuracy(study: str, path: Path) -> float:
    return 100 * ssmtool.evaluate(path, STUDIES[study].task).accuracy


def truncated(study: str, path: Path, method: str, share: int) -> float:
    """Accuracy in percent with a share of the study's order dropped; a model that is smaller already stays as it is."""
    model = ssmtool.load(path)
    rank = STUDIES[study].order * (100 - share) // 100
    if max(layer.order for layer in model.layers) <= rank:
        return accuracy(study, path)
    with tempfile.TemporaryDirectory() as scratch:
        small = Path(scratch) / "small.safetensors"
        try:
            ssmtool.compress(model, small, rank=rank, method=method, score="h2" if method == "modal" else "last")
        except ReductionError:  # real poles take a slot each: nothing becomes smaller
            return accuracy(study, path)
        return accuracy(study, small)
