"""Allocations of one total of states, judged by test accuracy on sequential digits.

    python tests/benchmarks/allocation.py            about four minutes on one core

On the S4D checkpoint ranks differ among layers and channels: three obvious allocations (by sigma, by sigma / sigma_1,
by sigma times the norm of the loss gradient at the channel's output) against uniform and ours. On the S5 and LRU
checkpoints, whose layers are one system each, ranks differ among layers. Reduction is balanced truncation throughout,
without any refit. Calibration inputs are those of the training part; nothing is chosen on the test part.
Exit status 1 if ours loses to uniform by more than three test images (of 360) anywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ssmtool.pipeline.allocate import shared_out
from ssmtool.pipeline.allocation import AllocateOptions
from ssmtool.pipeline.cuts import Cuts
from ssmtool.pipeline.methods import How
from ssmtool.pipeline.model import load
from ssmtool.pipeline.refine import run as outputs_of
from ssmtool.pipeline.spending import spend
from ssmtool.pipeline.workbench import Workbench
from ssmtool.reductions._contract import Target
from ssmtool.training.tasks import digits

FIXTURES = Path(__file__).parents[2] / "fixtures"
CASES = {"s4d": (12, 8, 6, 4, 3, 2), "s5": (24, 16, 12), "lru": (24, 16, 12)}
SLACK = 3 / 360
Plan = Sequence[np.ndarray]


class Case:
    """One checkpoint, its calibration inputs, and the test part."""

    def __init__(self, name: str) -> None:
        self.model = load(FIXTURES / f"digits-{name}.safetensors")
        inputs = np.load(FIXTURES / "digits-calibration.npy").astype(np.float32)
        self.bench = Workbench(self.model, None, inputs)
        self.layers = self.model.layers
        self.cuts = Cuts(self.model, self.layers, How(), self.bench, per_layer=True, pad_to=None, device="cpu")
        self.test = digits.load("test")
        self.sigma = [entry.spectrum.sigma for entry in self.model.hsv(device="cpu")]

    def accuracy(self, plan: Plan) -> float:
        """On the test part, every layer with these ranks."""
        changed = {x.name: self.cuts.tensors(x, ranks) for x, ranks in zip(self.layers, plan, strict=True)}
        inputs, labels = self.test
        return (outputs_of(self.bench.module(changed), inputs, 128).argmax(-1) == labels).double().mean().item()

    def by_values(self, weights: Sequence[np.ndarray], mean: int) -> Plan:
        """The states with the largest weighted sigma of all channels of all layers stay."""
        tails = [w[:, None] * np.cumsum(s[:, ::-1], 1)[:, ::-1] for w, s in zip(weights, self.sigma, strict=True)]
        costs = [np.append(row, 0.0) for tail in tails for row in tail]
        ranks = spend(costs, [1] * len(costs), [1] * len(costs), mean * len(costs))
        return np.split(ranks, np.cumsum([len(s) for s in self.sigma])[:-1])

    def gradient_norms(self) -> list[np.ndarray]:
        """(S,) norm of the cross-entropy's gradient at the output of every channel, training part; S4D only."""
        inputs, labels = digits.load("train")
        caught: list[torch.Tensor] = []
        parts = list(self.bench.original.s4_layers)  # type: ignore[union-attr, arg-type]
        for part in parts:
            part.mix = lambda u, plain=part.mix: caught.append(plain(u)) or caught[-1]
        with torch.enable_grad():
            loss = F.cross_entropy(self.bench.original(inputs.requires_grad_()), labels, reduction="sum")
        found = torch.autograd.grad(loss, caught)
        for part in parts:
            del part.mix
        return [gradient.square().sum(dim=(0, 1)).sqrt().double().numpy() for gradient in found]

    def ours(self, kind: str, mean: int, per_channel: bool) -> tuple[Plan, str]:
        """What `--allocate kind` carries out, and its name."""
        targets = [Target("rank", mean)] * len(self.layers)
        options = AllocateOptions(kind, per_channel, None, "classes")
        kept = shared_out(self.cuts, targets, options, self.bench).kept
        return kept.ranks, kept.name


def channels(mean: int, case: Case) -> dict[str, Plan]:
    """The three obvious allocations."""
    ones = [np.ones(len(s)) for s in case.sigma]
    return {
        "sigma": case.by_values(ones, mean),
        "sigma / sigma_1": case.by_values([1 / s[:, 0] for s in case.sigma], mean),
        "sigma x gradient": case.by_values(case.gradient_norms(), mean),
    }


def main() -> int:
    missed = False
    for name, means in CASES.items():
        case = Case(name)
        several = name == "s4d"
        full = case.accuracy([np.full(x.systems, x.order) for x in case.layers])
        print(f"\n{name}, full order 64: {full:.2%}. Test accuracy at the mean order:", flush=True)
        for mean in means:
            plans = {"uniform": [np.full(x.systems, mean) for x in case.layers]}
            plans |= channels(mean, case) if several else {"bound": case.ours("bound", mean, False)[0]}
            plans["sensitivity, layers"] = case.ours("sensitivity", mean, False)[0]
            plan, kept = case.ours("best", mean, several)
            plans["best"] = plan
            found = {word: case.accuracy(plan) for word, plan in plans.items()}
            line = "".join(f"  {word} {share:.2%}" for word, share in found.items())
            print(f"{mean:3}{line} ({kept})", flush=True)
            missed |= found["best"] < found["uniform"] - SLACK
    return int(missed)


def run() -> None:
    """All checkpoints; exits if ours loses to uniform."""
    if main():
        sys.exit("an allocation loses to uniform")


if __name__ == "__main__":
    sys.exit(main())
