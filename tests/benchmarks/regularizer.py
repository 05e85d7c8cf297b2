"""What the Hankel regulariser adds to a training step, at four layers of 128 channels.

LRU and S5 are one system per layer: 64 slots are order 128, 128 slots order 256. S4D is 128 systems per layer, so that
all of them are 512 eigenproblems of order 128 per step; the options `refresh` and `channels` are for that. Steps with
and without the regulariser take turns, the least time of each counts; forward, backward and optimiser are in it.

The published gradient differentiates a decomposition of P Q (Forgione et al. 2024, Schwerdtner et al. 2025, whose
training steps took 1.12 to 1.59 times as long): timed here beside ours on the same systems, in float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ssmtool.lti.potapov import complex_expm1
from ssmtool.pipeline.live_layers import tensors_of
from ssmtool.reference.layouts._contract import ReferenceModel, Sizes
from ssmtool.reference.model import create
from ssmtool.training import HankelRegularizer

WIDTH, DEPTH, BATCH, LENGTH, TARGET = 128, 4, 32, 784, 1.1
CASES: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("lru", 64, {}),
    ("lru", 128, {}),
    ("s5", 64, {}),
    ("s5", 128, {}),
    ("s4d", 64, {"refresh": 32}),
    ("s4d", 64, {"channels": 4}),
    ("s4d", 64, {}),
)


def training_step(model: ReferenceModel, penalty: Callable[[], Tensor] | None) -> Callable[[], None]:
    """One step of AdamW on random sequences of the length of sequential MNIST."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(BATCH, LENGTH, 1, generator=generator)
    labels = torch.randint(10, (BATCH,), generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(u), labels)
        if penalty is not None:
            loss = loss + penalty()
        loss.backward()
        optimizer.step()

    return step


def seconds(run: Callable[[], Any]) -> float:
    """CPU time, all threads together: what else the machine does matters little."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def published(regularizer: HankelRegularizer) -> Tensor:
    """Sum of sqrt(eig(P Q)) of the conjugate-closed systems, differentiated by autograd, float32."""
    total = torch.zeros(())
    for _, system in regularizer.live.systems():
        a, B, C = (x.to(torch.complex64) for x in tensors_of(system))
        a, B, C = torch.cat([a, a.conj()], 1), torch.cat([B, B.conj()], 1), torch.cat([C, C.conj()], 2) / 2
        kernel = -1 / complex_expm1(a[:, :, None] + a.conj()[:, None])
        P, Q = kernel * (B @ B.mH), kernel.mT * (C.mH @ C)
        total = total + torch.linalg.eigvals(P @ Q).real.clamp_min(1e-10).sqrt().sum()
    return total


def measure(layout: str, slots: int, options: dict[str, Any]) -> None:
    """One line, or two, of the table."""
    model = create(layout, Sizes(1, WIDTH, 10, (slots,) * DEPTH), seed=0)
    regularizer = HankelRegularizer(model, 1e-6, **options)
    plain, regularised = training_step(model, None), training_step(model, regularizer)
    for warm_up in (plain, regularised):
        warm_up()
    times = [(seconds(plain), seconds(regularised)) for _ in range(5)]
    base, more = (min(column) for column in zip(*times, strict=True))
    words = ", ".join(f"{name}={value}" for name, value in options.items()) or "all systems"
    verdict = f"target {TARGET:g}x: {'met' if more <= TARGET * base else 'MISSED'}"
    if layout == "s4d" and not options:
        verdict = "what the options are for"
    print(f"  {layout:4s} {slots:4d} slots, {words:22s} {base:6.3f} -> {more:6.3f}  {more / base:5.3f}x  {verdict}")
    if layout != "s4d":
        ours = min(seconds(lambda: regularizer().backward()) for _ in range(3))
        theirs = min(seconds(lambda: published(regularizer).backward()) for _ in range(2))
        print(
            f"       the penalty alone {ours:6.3f}; through eig(P Q) and autograd {theirs:6.3f} ({theirs / ours:.1f}x)"
        )


def follow(options: dict[str, Any] | None, epochs: int = 4, weight: float = 1e-4) -> tuple[float, float, float]:
    """Nuclear norm, loss and CPU seconds of a short run on digits with gradients clipped; None: no penalty."""
    images, target = load_digits(return_X_y=True)
    u, labels = torch.tensor(images / 8 - 1, dtype=torch.float32)[:, :, None], torch.tensor(target)
    model = create("s4d", Sizes(1, 64, 10, (32,) * DEPTH), seed=0)
    state = [p for layer in model.state_spaces() for p in layer.state_parameters()]
    others = [p for p in model.parameters() if all(p is not q for q in state)]
    optimizer = torch.optim.AdamW([{"params": state, "lr": 2e-3, "weight_decay": 0.0}, {"params": others}], lr=4e-3)
    regularizer = HankelRegularizer(model, weight, **(options or {}))
    generator = torch.Generator().manual_seed(0)

    def train() -> None:
        for chosen in (part for _ in range(epochs) for part in torch.randperm(len(u), generator=generator).split(64)):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(u[chosen]), labels[chosen])
            (loss if options is None else loss + regularizer()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    time_taken = seconds(train)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(u), labels).item()
    return sum(HankelRegularizer(model).values().values()), loss, time_taken


def run() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    print(f"batch {BATCH}, {LENGTH} steps; CPU seconds per step, one thread")
    for layout, slots, options in CASES:
        measure(layout, slots, options)
    print("S4D, 4 layers, 64 channels of 32 slots, 4 epochs of digits: what the cheaper options do to the result")
    for words, options in (
        ("no penalty", None),
        ("all systems", {}),
        ("refresh=32", {"refresh": 32}),
        ("channels=4", {"channels": 4}),
    ):
        norm, loss, time_taken = follow(options)
        print(f"  {words:12s} nuclear norm {norm:7.0f}, loss {loss:5.3f}, {time_taken:5.1f} s")
    torch.set_num_threads(before)


if __name__ == "__main__":
    run()
