"""Layers per second of hsv and compress, and the model of cost that predicts them (docs/scale.md).

Cost is counted in seconds of processor time of all threads: it says what a layer takes whatever else the machine does.
The constants of the model are fitted on single layers; predictions are for layers of other sizes, and for checkpoints
of many layers. Writes docs/img/throughput.svg.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "img" / "throughput.svg"
# Slots up to which the compiled kernel runs, inputs from which poles are eliminated in blocks, inputs up to which every
# gain is a singular value decomposition: ssmtool.lti.hankel, factors and norms.
COMPILED, BLOCKS, EXACT = 32, 16, 48


@dataclass(frozen=True)
class Shape:
    """A layer: S systems with n states (n / 2 stored slots), m inputs and p outputs."""

    S: int
    n: int
    m: int = 1
    p: int = 1

    @property
    def path(self) -> str:
        """The algorithm, which decides the constants."""
        if self.m == self.p == 1:
            return "one input, compiled" if self.n <= 2 * COMPILED else "one input, LAPACK"
        if self.m < BLOCKS:
            return "several inputs"
        return "many inputs" if self.m <= EXACT else "very many inputs"

    @property
    def bytes(self) -> int:
        """Of its tensors: poles, B and C as pairs of float32, D."""
        return 4 * self.S * (self.n + self.n * self.m + self.p * self.n + self.p * self.m)

    def terms(self) -> np.ndarray:
        """What the cost is linear in, one number per column of TERMS."""
        n, m, p, S = self.n, self.m, self.p, self.S
        return np.array([S * n**3, S * n**2 * (m + p), S * n * (m + p), S * n * m * p * (m > 1), 1.0])

    def __str__(self) -> str:
        return f"{self.S} x {self.m}->{self.p}, order {self.n}"


TERMS = ("S n^3", "S n^2 (m + p)", "S n (m + p)", "S n m p", "layer")
"""Decompositions; Gramian factors, and responses at as many frequencies as poles; responses at a fixed number of
frequencies; their gains, where they are matrices; and what every layer costs."""
FITTED = [
    *(Shape(S, n) for S, n in ((256, 8), (256, 16), (64, 32), (256, 32), (256, 64), (64, 64))),
    *(Shape(S, n) for S, n in ((24, 72), (48, 96), (24, 96), (24, 128), (12, 192))),
    *(Shape(S, n, m, m) for S, n, m in ((2, 32, 4), (2, 64, 4), (6, 64, 8), (2, 64, 12), (2, 128, 8))),
    *(Shape(S, n, m, m) for S, n, m in ((1, 64, 16), (1, 64, 32), (2, 96, 24), (1, 128, 48), (1, 192, 32))),
    *(Shape(S, n, m, m) for S, n, m in ((1, 64, 64), (1, 128, 64), (1, 128, 96), (1, 192, 96), (1, 256, 64))),
]
HELD_OUT = [
    *(Shape(200, 24), Shape(100, 48), Shape(16, 160), Shape(3, 96, 6, 6)),
    *(Shape(1, 96, 40, 40), Shape(1, 160, 80, 80)),
]
TYPICAL, WIDE = Shape(128, 64), Shape(1, 128, 64, 64)  # a layer of S4D, a layer of S5
COUNTS = (1, 2, 4, 8, 16, 32)


def checkpoint(path: Path, shapes: Sequence[Shape], seed: int = 0) -> Path:
    """A file in the neutral layout with random layers of these shapes."""
    rng, tensors = np.random.default_rng(seed), {}
    for i, s in enumerate(shapes):
        slots, at = s.n // 2, f"layers.{i}.ssm."
        poles = np.stack([-(10 ** rng.uniform(-3, -1, (s.S, slots))), rng.uniform(0, 3, (s.S, slots))], -1)
        decay = 0.8 ** np.arange(slots)
        tensors[at + "lambda_log"] = poles
        tensors[at + "B"] = rng.standard_normal((s.S, slots, s.m, 2))
        tensors[at + "C"] = rng.standard_normal((s.S, s.p, slots, 2)) * decay[:, None]
        tensors[at + "D"] = rng.standard_normal((s.S, s.p, s.m))
    save_file({name: array.astype(np.float32) for name, array in tensors.items()}, path)
    return path


def seconds(operate: Callable[[Any], Any], model: Any, turns: int = 3, least: float = 1.0) -> tuple[float, float]:
    """Least processor time and least wall time of a few turns, and of as many as take `least` seconds."""
    found = []
    while len(found) < turns or sum(wall for _, wall in found) < least:
        wall, cpu = time.perf_counter(), time.process_time()
        operate(model)
        found.append((time.process_time() - cpu, time.perf_counter() - wall))
    return min(cpu for cpu, _ in found), min(wall for _, wall in found)


def operations() -> dict[str, Callable[[Any], Any]]:
    """What is timed, of an open model."""
    from ssmtool.pipeline.compress import compress

    return {
        "hsv": lambda model: model.hsv(device="cpu"),
        "compress": lambda model: compress(model, None, budget=0.25, dry_run=True, device="cpu"),
    }


def fitted(shapes: Sequence[Shape], costs: Sequence[float]) -> dict[str, np.ndarray]:
    """Constants, none negative, per algorithm: least squares of relative errors."""
    from scipy.optimize import nnls

    constants = {}
    for path in dict.fromkeys(shape.path for shape in shapes):
        rows = [(shape, cost) for shape, cost in zip(shapes, costs, strict=True) if shape.path == path]
        scaled = np.array([shape.terms() / cost for shape, cost in rows])
        unit = scaled.max(axis=0, initial=1e-300)
        constants[path] = nnls(scaled / unit, np.ones(len(rows)))[0] / unit
    return constants


def predicted(constants: dict[str, np.ndarray], shapes: Sequence[Shape]) -> float:
    """Processor seconds of the model of cost."""
    return float(sum(constants[shape.path] @ shape.terms() for shape in shapes))


def command(*arguments: str) -> tuple[float, float]:
    """Processor and wall seconds of a whole command and its processes."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "ssmtool", *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return cpu, time.perf_counter() - begin


def run() -> None:
    """The whole table, and the picture."""
    import torch

    from ssmtool.pipeline.model import load

    torch.set_num_threads(1)
    print(f"  {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    points: dict[str, list[tuple[int, float, float]]] = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("SSMTOOL_BENCH_DIR")) as temporary:
        root = Path(temporary)
        models = {s: load(checkpoint(root / f"{i}.safetensors", [s])) for i, s in enumerate([*FITTED, *HELD_OUT])}
        many = {k: load(checkpoint(root / f"many{k}.safetensors", [TYPICAL] * k)) for k in COUNTS}
        layer = Shape(4000, 256)
        model = load(checkpoint(root / "bytes.safetensors", [layer]))
        per_byte = seconds(lambda model: model.content(model.layers[0]), model)[0] / layer.bytes
        print(
            f"  a byte read and hashed: {1e9 * per_byte:.2f} ns; of {TYPICAL}: {1e3 * per_byte * TYPICAL.bytes:.2f} ms"
        )
        for name, operate in operations().items():
            operate(next(iter(models.values())))
            costs = [seconds(operate, models[shape])[0] for shape in FITTED]
            constants = fitted(FITTED, costs)
            print(f"\n  {name}: constants, ns; of a layer, ms\n  {'':20s}" + "".join(f"{term:>15s}" for term in TERMS))
            for path, found in constants.items():
                print(f"  {path:20s}" + "".join(f"{1e9 * x:15.3f}" for x in found[:-1]) + f"{1e3 * found[-1]:15.2f}")
            print(f"\n  {name}: layers of other sizes   predicted s  measured s   ratio")
            for shape in HELD_OUT:
                show(str(shape), predicted(constants, [shape]), seconds(operate, models[shape])[0])
            print(f"\n  {name}: layers of {TYPICAL}   predicted s  measured s   ratio   wall s  layers/s")
            points[name] = []
            for count, model in many.items():
                cpu, wall = seconds(operate, model, 2)
                guess = predicted(constants, [TYPICAL] * count)
                show(f"{count}", guess, cpu, f"{wall:8.2f} {count / wall:9.1f}")
                points[name].append((count, guess, cpu))
        whole_commands(root)
    picture(points)
    print(f"\n  load {os.getloadavg()[0]:.1f} at the end; wrote {PICTURE.relative_to(ROOT)}")


def whole_commands(root: Path) -> None:
    """Commands from start to end, by the number of jobs, and with everything known."""
    print(f"\n  {'whole commands: processor (wall) seconds':44s}{'--jobs 1':>16s}{'--jobs 2':>16s}{'known':>14s}")
    for name, shape, count in (("s4d", TYPICAL, 32), ("s5", WIDE, 32)):
        path = str(checkpoint(root / f"{name}.safetensors", [shape] * count))
        hsv = ("hsv", path, "--device", "cpu")
        found = [command(*hsv, "--no-cache", "--jobs", str(jobs)) for jobs in (1, 2)]
        command(*hsv, "--cache", str(root / "kept"))
        found.append(min(command(*hsv, "--cache", str(root / "kept")) for _ in range(3)))
        print(f"  hsv, {f'{count} layers of {shape}':39s}" + "".join(f"{cpu:8.2f} ({w:5.1f})" for cpu, w in found))


def show(what: str, guess: float, found: float, more: str = "") -> None:
    """One line of a table."""
    print(f"  {what:34s} {guess:11.3f} {found:11.3f} {found / guess:7.2f} {more}", flush=True)


def picture(points: dict[str, list[tuple[int, float, float]]]) -> None:
    """Measured points and predicted lines, over the number of layers."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    style: Any = {"svg.hashsalt": "ssmtool", "svg.fonttype": "none", "font.size": 9}
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
        for (name, rows), colour, mark in zip(points.items(), ("#0072b2", "#d55e00"), ("o", "s"), strict=True):
            counts, guesses, found = zip(*rows, strict=True)
            axes.loglog(counts, guesses, color=colour, lw=1.2, label=f"{name}, predicted")
            axes.loglog(counts, found, mark, color=colour, ms=5, mfc="none", label=f"{name}, measured")
        axes.set_xticks(COUNTS, [str(count) for count in COUNTS])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(f"layers of {TYPICAL.S} systems of order {TYPICAL.n}")
        axes.set_ylabel("processor time, seconds")
        axes.legend(frameon=False)
        figure.savefig(PICTURE, metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    run()
