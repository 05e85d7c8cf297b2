"""Reduced language models on held-out text: ours against selection by GHOST, Taylor scores, magnitude and chance.

Calibration, Taylor scores and refits see the calibration tokens only; perplexity and KL are those of the held-out ones.
Random selection is the median of five seeds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ssmtool
from ssmtool.pipeline.language import LanguageComparison, compare
from ssmtool.selective.choices import Export, Select

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
SEEDS = 5
RANKS = {"bytes-mamba2": (32, 16, 8, 1), "bytes-mamba": (12, 8, 4, 1)}
BASELINES = (Select.ghost, Select.taylor, Select.magnitude, Select.random)


@dataclass(frozen=True)
class Row:
    """One reduced model."""

    method: str
    result: LanguageComparison
    seconds: float


def run() -> None:
    """Print one table per fixture."""
    held_out = np.load(FIXTURES / "stdlib-heldout.npy").astype(np.int64)
    for name, ranks in RANKS.items():
        model = ssmtool.load(FIXTURES / name)
        runner = ssmtool.open_runner(model, "cpu")
        source = ssmtool.TokenSource(file=FIXTURES / "stdlib-calibration.npy")
        tokens = ssmtool.read_tokens(source, model, runner)
        base = compare(runner, runner, held_out)
        states = model.layers[0].slots
        print(f"\n{name}: {states} states, perplexity {base.perplexity_original:.4f} per byte on held-out text")
        print(f"  {'r':>3}  {'method':<28} {'perplexity':>10} {'increase':>9} {'KL':>9} {'top-1':>8} {'s':>6}")
        for rank in ranks:
            for row in rows(model, runner, tokens, held_out, rank):
                found = row.result
                print(
                    f"  {rank:>3}  {row.method:<28} {found.perplexity_reduced:>10.4f} {found.increase:>+8.3f}% "
                    f"{found.kl:>9.5f} {100 * found.agreement:>7.2f}% {row.seconds:>6.1f}",
                    flush=True,
                )


def rows(model, runner, tokens, held_out: np.ndarray, rank: int) -> list[Row]:
    """Every method at one rank."""

    def reduced(method: str, **options) -> Row:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            done = ssmtool.compress_selective(model, runner, tokens, Path(folder) / "out", rank=rank, **options)
            seconds = time.perf_counter() - start
            smaller = ssmtool.open_runner(ssmtool.load(done.output), "cpu")
        return Row(method, compare(runner, smaller, held_out), seconds)

    found = []
    if model.layers[0].options["kind"] == "mamba-2":
        found.append(reduced("projected", export=Export.projected))
    found.append(reduced("stock"))
    found.append(reduced("stock without refit", options=ssmtool.RefitOptions(steps=0)))
    for how in BASELINES:
        seeds = range(SEEDS if how is Select.random else 1)
        tried = [reduced(f"{how.value} (selection)", how=how, seed=seed) for seed in seeds]
        middle = statistics.median_low(sorted(row.result.loss_reduced for row in tried))
        found.append(next(row for row in tried if row.result.loss_reduced == middle))
    found.append(reduced("ghost + refit", how=Select.ghost, options=ssmtool.RefitOptions()))
    return found
