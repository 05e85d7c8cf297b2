"""The recipes that made the checkpoints in fixtures/."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ssmtool import plugins
from ssmtool.reference.layouts._contract import ReferenceModel, Sizes
from ssmtool.reference.model import create


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run but the seed.

    Attributes:
        layout: tensor names and layer type, one of ssmtool.reference.model.layouts().
        task: one of ssmtool.training.evaluate.TASKS.
        width: H, channels.
        depth: layers.
        slots: stored complex state slots per system; the real order is twice that.
        epochs: passes over the training part.
        batch: sequences per step.
        rate: peak learning rate of the ordinary weights (AdamW, one warm-up epoch in twenty, cosine to zero).
        state_rate: peak learning rate of the state-space parameters.
        decay: weight decay of the ordinary weights.
        residue_decay: weight decay of the input and output weights of the modes, without which modes the task has no
            use for keep what initialisation gave them. Poles and step sizes see none: it would pull them towards a
            meaningless origin in log space.
        dropout: probability, in every block.
        strength: of the task's augmentation.
        smoothing: of the labels.
        averaging: decay per step of the running average of the weights, which is what is returned.
    """

    layout: str
    task: str = "digits"
    width: int = 64
    depth: int = 4
    slots: int = 32
    epochs: int = 150
    batch: int = 64
    rate: float = 4e-3
    state_rate: float = 2e-3
    decay: float = 0.05
    residue_decay: float = 1.0
    dropout: float = 0.05
    strength: float = 1.0
    smoothing: float = 0.05
    averaging: float = 0.99


RECIPES = {
    "s4d": Recipe("s4d"),
    "s5": Recipe("s5", width=64),
    "lru": Recipe("lru", width=48, residue_decay=0.0),
}


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training looked like.

    Attributes:
        number: from 1.
        loss: mean training loss, augmentation and dropout on.
        validation: accuracy of the averaged weights on the validation part, in [0, 1].
    """

    number: int
    loss: float
    validation: float


def train(
    recipe: Recipe, seed: int, report: Callable[[Epoch], None] = lambda epoch: None
) -> tuple[ReferenceModel, tuple[Epoch, ...]]:
    """Train from scratch on the CPU; the same arguments, library versions and thread count give the same weights.

    The test part is never looked at, and nothing is chosen during the run: the averaged weights of the last step
    are returned.

    Args:
        recipe: what to do.
        seed: of initialisation, order, augmentation and dropout.
        report: called after each epoch.

    Returns:
        The model in evaluation mode, and the history.
    """
    task = plugins.load("ssmtool.training.tasks", recipe.task)
    inputs, labels = task.load("train")
    sizes = Sizes(task.INPUTS, recipe.width, task.CLASSES, (recipe.slots,) * recipe.depth)
    model = create(recipe.layout, sizes, seed=seed, dropout=recipe.dropout)
    average = copy.deepcopy(model).eval()
    steps = recipe.epochs * math.ceil(len(inputs) / recipe.batch)
    optimiser = _optimiser(model, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _warm_cosine(step, steps))
    generator = torch.Generator().manual_seed(seed)

    history = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number in range(1, recipe.epochs + 1):
            total = 0.0
            model.train()
            for chosen in torch.randperm(len(inputs), generator=generator).split(recipe.batch):
                logits = model(task.augment(inputs[chosen], generator, recipe.strength))
                loss = F.cross_entropy(logits, labels[chosen], label_smoothing=recipe.smoothing)
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                for layer in model.state_spaces():
                    layer.constrain()
                _follow(average, model, recipe.averaging)
                total += loss.item() * len(chosen)
            history.append(Epoch(number, total / len(inputs), accuracy(average, *task.load("validation"))))
            report(history[-1])
    return average, tuple(history)


def accuracy(model: ReferenceModel, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of `inputs` (n, L, channels) classified as `labels` (n,)."""
    with torch.no_grad():
        return (model(inputs).argmax(dim=-1) == labels).double().mean().item()


def _optimiser(model: ReferenceModel, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW with groups for the state-space parameters; vectors (biases, norms) are not decayed either."""
    residues = [parameter for layer in model.state_spaces() for parameter in layer.residue_parameters()]
    linear = {id(parameter) for parameter in residues}
    state = [p for layer in model.state_spaces() for p in layer.state_parameters() if id(p) not in linear]
    taken = linear | {id(parameter) for parameter in state}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    return torch.optim.AdamW(
        [
            {"params": state, "lr": recipe.state_rate, "weight_decay": 0.0},
            {"params": residues, "lr": recipe.state_rate, "weight_decay": recipe.residue_decay},
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": recipe.decay},
            {"params": [p for p in rest if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=recipe.rate,
    )


def _warm_cosine(step: int, steps: int) -> float:
    """Factor on the learning rate: linear over the first twentieth, then a half cosine to zero."""
    warm = max(steps // 20, 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


@torch.no_grad()
def _follow(average: ReferenceModel, model: ReferenceModel, decay: float) -> None:
    """Move the running average one step towards the model."""
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)
