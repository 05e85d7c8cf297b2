"""Reduced language models on held-out text: ours against selection by GHOST, Taylor scores, magnitude and chance.

Calibration, Taylor scores and refits see the calibration tokens only; perplexity and KL are those of the held-out ones.
Random selection is the median of three seeds. `python tests/benchmarks selective` takes half an hour on two cores.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ssmtool
from ssmtool.pipeline.calibrate import calibrate
from ssmtool.pipeline.language import LanguageComparison, compare
from ssmtool.pipeline.runner import with_mixers
from ssmtool.pipeline.selective_hsv import on_runner
from ssmtool.pipeline.selective_layers import refitted, shrunk
from ssmtool.pipeline.stages import NOWHERE
from ssmtool.pipeline.steps import no_step
from ssmtool.pipeline.taylor import taylor_scores
from ssmtool.selective.choices import Export, Select
from ssmtool.selective.language import Runner
from ssmtool.selective.refit import RefitOptions

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
SEEDS = 3
RANKS = {"bytes-mamba2": (32, 16, 8, 1), "bytes-mamba": (12, 8, 4, 1)}


@dataclass(frozen=True)
class Row:
    """One reduced model."""

    method: str
    result: LanguageComparison
    seconds: float


class Bench:
    """One model, its moments and scores, measured once for all rows."""

    def __init__(self, name: str) -> None:
        self.model = ssmtool.load(FIXTURES / name)
        self.runner: Runner = ssmtool.open_runner(self.model, "cpu")
        self.tokens = np.load(FIXTURES / "stdlib-calibration.npy").astype(np.int64)
        self.held_out = np.load(FIXTURES / "stdlib-heldout.npy").astype(np.int64)
        self.mixers = {layer.name: self.model.mixers(layer) for layer in self.model.layers}
        self.running = on_runner(self.mixers, self.runner)
        start = time.perf_counter()
        self.moments = calibrate(self.runner, self.running, self.tokens)
        self.calibration_seconds = time.perf_counter() - start
        self.scores = taylor_scores(self.runner, self.running, self.tokens, no_step)
        self.base = compare(self.runner, self.runner, self.held_out)

    def row(
        self, method: str, rank: int, how: Select = Select.elimination, *, export=Export.stock, steps=0, seed=0
    ) -> Row:
        """Reduce, refit, compare on held-out text."""
        start = time.perf_counter()
        small, _ = shrunk(self.mixers, self.moments, rank, export, how, self.scores, seed)
        if steps:
            options = RefitOptions(steps=steps)
            small, _ = refitted(self.runner, self.running, small, self.tokens, options, no_step, NOWHERE, ())
        seconds = time.perf_counter() - start
        smaller = with_mixers(self.runner, on_runner(small, self.runner))
        return Row(method, compare(self.runner, smaller, self.held_out), seconds)

    def rows(self, rank: int) -> list[Row]:
        """Every method at one rank."""
        found = []
        if self.model.layers[0].options["kind"] == "mamba-2":
            found.append(self.row("projected", rank, export=Export.projected))
        found.append(self.row("stock: elimination, refit", rank, steps=300))
        found.append(self.row("elimination alone", rank))
        found += [self.row(f"{how.value} alone", rank, how) for how in (Select.ghost, Select.taylor, Select.magnitude)]
        chance = [self.row("random alone", rank, Select.random, seed=seed) for seed in range(SEEDS)]
        found.append(sorted(chance, key=lambda row: row.result.loss_reduced)[SEEDS // 2])
        if rank == self.model.layers[0].slots // 2:
            found.append(self.row("ghost, refit", rank, Select.ghost, steps=300))
        return found


def run(*names: str) -> None:
    """Print one table per fixture, all by default."""
    for name in names or RANKS:
        bench = Bench(name)
        print(f"\n{name}: N = {bench.model.layers[0].slots}, perplexity {bench.base.perplexity_original:.4f} per byte")
        print(f"calibration {bench.calibration_seconds:.1f} s; s: choosing and refitting")
        print(f"  {'r':>3}  {'method':<26} {'perplexity':>10} {'increase':>9} {'KL':>9} {'top-1':>8} {'s':>6}")
        for rank in RANKS[name]:
            for row in bench.rows(rank):
                found = row.result
                print(
                    f"  {rank:>3}  {row.method:<26} {found.perplexity_reduced:>10.4f} {found.increase:>+8.3f}% "
                    f"{found.kl:>9.5f} {100 * found.agreement:>7.2f}% {row.seconds:>6.1f}",
                    flush=True,
                )
