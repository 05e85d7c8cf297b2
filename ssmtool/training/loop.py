"""The training loop: one step at a time, its whole state in plain tensors and numbers, so that a run can stop anywhere.

A run that is stopped after any step and continued from its state gives the weights of one that never stopped, bit for
bit on the CPU with the same number of threads.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_type_hints

import torch
import torch.nn.functional as F

from ssmtool.errors import CheckpointError, UsageError
from ssmtool.reference.layouts._contract import ReferenceModel, Sizes
from ssmtool.reference.model import create
from ssmtool.training.hankel import HankelRegularizer
from ssmtool.training.optimiser import build_optimiser, restore_optimiser, set_rates
from ssmtool.training.penalties import Penalty, build_penalty
from ssmtool.training.recipe import Recipe
from ssmtool.training.schedule import Truncation
from ssmtool.training.tasks._contract import Task, open_task
from ssmtool.training.truncation import truncate

BATCH_STEPS = 2**18  # time steps classified at once where no gradient is needed


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training looked like.

    Attributes:
        number: from 1.
        step: steps of the optimiser so far.
        loss: mean training loss, augmentation and dropout on, without the penalty.
        penalty: mean weighted penalty.
        validation: accuracy of the averaged weights on the validation part, in [0, 1].
        rate: learning rate of the ordinary weights in the last step.
        state_slots: stored complex state slots of the model.
        seconds: of training so far, validation and earlier parts of a continued run included.
    """

    number: int
    step: int
    loss: float
    penalty: float
    validation: float
    rate: float
    state_slots: int
    seconds: float


class Training:
    """A training run that can be stopped after any step.

    The test part is never looked at, and nothing is chosen during the run: its result is the running average of the
    weights.

    Args:
        recipe: what to do.
        seed: of initialisation, order, augmentation and dropout.
        task: what to train on; by default the recipe's.
        penalty: added to the loss.
        schedule: truncations at ends of epochs. Each starts the running average anew.
        device: to compute on.

    Attributes:
        model, average: the weights that are trained, and their running average, in evaluation mode.
        history: the epochs that are done.
    """

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        *,
        task: Task | None = None,
        penalty: Penalty | None = None,
        schedule: tuple[Truncation, ...] = (),
        device: str = "cpu",
    ) -> None:
        self.recipe, self.schedule, self._penalty = recipe, schedule, penalty
        self.task = open_task(recipe.task) if task is None else task
        self.device = torch.device(device)
        self.inputs, self.labels = self.task.load("train")
        self._validation = self.task.load("validation")
        self.step_count = 0
        self.history: list[Epoch] = []
        self._adopt(
            create(recipe.layout, self._sizes((recipe.slots,) * recipe.depth), seed=seed, dropout=recipe.dropout)
        )
        self._generator = torch.Generator().manual_seed(seed)
        self._noise = self._seeded_noise(seed)
        self._order = torch.empty(0, dtype=torch.long)
        self._loss = self._cost = self._seconds = 0.0

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.inputs) / self.recipe.batch)

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def finished(self) -> bool:
        return self.step_count >= self.steps

    def step(self) -> Epoch | None:
        """One step of the optimiser, and at the end of an epoch its validation and truncation.

        Returns:
            The epoch that ended with this step, None within one.

        Raises:
            UsageError: the loss is no longer finite.
        """
        start = time.perf_counter()
        position = self.step_count % self.steps_per_epoch
        if position == 0:
            self._order = torch.randperm(len(self.inputs), generator=self._generator)
            self._loss = self._cost = 0.0
        self._optimise(self._order[position * self.recipe.batch : (position + 1) * self.recipe.batch])
        self.step_count += 1
        ended = self._end_epoch(start) if position + 1 == self.steps_per_epoch else None
        self._seconds += time.perf_counter() - start
        return ended

    def state(self) -> dict[str, Any]:
        """Everything a later process needs: tensors, numbers, strings, lists and dicts of them."""
        return {
            "slots": [layer.slots for layer in self.model.state_spaces()],
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "penalty": self._penalise.state_dict() if isinstance(self._penalise, HankelRegularizer) else {},
            "step": self.step_count,
            "order": self._order,
            "loss": self._loss,
            "cost": self._cost,
            "seconds": self._seconds,
            "generator": self._generator.get_state(),
            "noise": self._noise,
            "history": [asdict(epoch) for epoch in self.history],
        }

    def restore(self, state: Mapping[str, Any], *, where: str = "") -> None:
        """Continue from what `state` returned in a run with the same arguments.

        Args:
            state: plain tensors and numbers.
            where: file named in errors.

        Raises:
            CheckpointError: it is the state of another run.
        """
        try:
            slots = tuple(state["slots"])
            if len(slots) != self.recipe.depth or not all(type(n) is int and 0 < n <= self.recipe.slots for n in slots):
                raise ValueError(f"slots {slots!r:.80}")
            sizes = self._sizes(slots)
            self._adopt(create(self.recipe.layout, sizes, seed=0, dropout=self.recipe.dropout))
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            restore_optimiser(self._optimiser, state["optimiser"])
            if isinstance(self._penalise, HankelRegularizer):
                self._penalise.load_state_dict(state["penalty"])
            self._generator.set_state(state["generator"])
            self.step_count, self._order, self._noise = state["step"], state["order"], list(state["noise"])
            self._loss, self._cost, self._seconds = (float(state[key]) for key in ("loss", "cost", "seconds"))
            self.history = [Epoch(**epoch) for epoch in state["history"]]
            self._check_restored()
        except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"is not the state of this run: {reason:.120}", where=where) from error

    def _check_restored(self) -> None:
        """Raises an error of any of the kinds `restore` knows, for what would fail in some later step."""
        if type(self.step_count) is not int or not 0 <= self.step_count <= self.steps:
            raise ValueError(f"step {self.step_count!r:.80} of {self.steps}")
        within = self.step_count % self.steps_per_epoch
        if within and not torch.equal(self._order.sort().values, torch.arange(len(self.inputs))):
            raise ValueError("an order of other examples")
        for epoch in self.history:
            for name, kind in get_type_hints(Epoch).items():
                value = getattr(epoch, name)
                if type(value) is not kind:
                    raise TypeError(f"{name} {value!r:.80} of an epoch")
        generators = 2 if self.device.type == "cuda" else 1
        if len(self._noise) != generators:
            raise ValueError(f"{len(self._noise)} states of generators")
        torch.Generator().set_state(self._noise[0])

    def _sizes(self, slots: tuple[int, ...]) -> Sizes:
        return Sizes(self.task.inputs, self.recipe.width, self.task.classes, slots)

    def _adopt(self, model: ReferenceModel) -> None:
        """Make `model` the one that is trained."""
        self.model = model.to(self.device)
        self._optimiser = build_optimiser(self.model, self.recipe)
        self._penalise = build_penalty(self._penalty, self.model)
        self._follow_anew()

    def _follow_anew(self) -> None:
        """Start the running average from the present weights."""
        self.average = copy.deepcopy(self.model).eval()

    def _optimise(self, chosen: torch.Tensor) -> None:
        recipe, cuda = self.recipe, [self.device] if self.device.type == "cuda" else []
        set_rates(self._optimiser, self.step_count, self.steps)
        self.model.train()
        # Dropout draws from torch's global generators: they are put where this run left them, and back afterwards.
        with torch.random.fork_rng(devices=cuda):
            torch.set_rng_state(self._noise[0])
            if cuda:
                torch.cuda.set_rng_state(self._noise[1], self.device)
            augmented = self.task.augment(self.inputs[chosen], self._generator, recipe.strength)
            u, lengths = self.task.encode(augmented)
            logits = self.model(u.to(self.device), None if lengths is None else lengths.to(self.device))
            self._noise = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in cuda)]
        loss = F.cross_entropy(logits, self.labels[chosen].to(self.device), label_smoothing=recipe.smoothing)
        cost = None if self._penalise is None else self._penalise()
        self._optimiser.zero_grad()
        (loss if cost is None else loss + cost).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimiser.step()
        for layer in self.model.state_spaces():
            layer.constrain()
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, 1 - recipe.averaging)
        self._loss += loss.item() * len(chosen)
        self._cost += 0.0 if cost is None else cost.item() * len(chosen)
        if not math.isfinite(self._loss + self._cost):
            raise UsageError(
                f"training diverged: the loss is not finite after step {self.step_count + 1}",
                remedy="Give a smaller --rate, --state-rate or weight of --reg",
            )

    def _end_epoch(self, start: float) -> Epoch:
        number = self.step_count // self.steps_per_epoch
        due = [truncation for truncation in self.schedule if truncation.epoch(self.recipe.epochs) == number]
        for truncation in due:
            truncate(self.model, self._optimiser, **truncation.arguments)
        if due:
            self._follow_anew()
        epoch = Epoch(
            number=number,
            step=self.step_count,
            loss=self._loss / len(self.inputs),
            penalty=self._cost / len(self.inputs),
            validation=self._validate(),
            rate=self._optimiser.param_groups[-1]["lr"],
            state_slots=self.model.state_slots(),
            seconds=round(self._seconds + time.perf_counter() - start, 3),
        )
        self.history.append(epoch)
        return epoch

    def _validate(self) -> float:
        inputs, labels = self._validation
        found = logits_of(self.average, self.task, inputs, self.device).argmax(dim=-1)
        return (found == labels).double().mean().item()

    def _seeded_noise(self, seed: int) -> list[torch.Tensor]:
        """States of torch's global generators, the CPU's and that of a CUDA device, after seeding."""
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in cuda)]


def train(
    recipe: Recipe, seed: int, report: Callable[[Epoch], None] = lambda epoch: None
) -> tuple[ReferenceModel, tuple[Epoch, ...]]:
    """Train from scratch on the CPU; the same arguments, library versions and thread count give the same weights.

    Args:
        recipe: what to do.
        seed: of initialisation, order, augmentation and dropout.
        report: called after each epoch.

    Returns:
        The averaged model in evaluation mode, and the history.
    """
    training = Training(recipe, seed)
    while not training.finished:
        if epoch := training.step():
            report(epoch)
    return training.average, tuple(training.history)


def logits_of(model: ReferenceModel, task: Task, inputs: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(n, classes) outputs of `model`, which is on `device`, for stored inputs of `task`, in bounded memory."""
    found = []
    with torch.inference_mode():
        for part in inputs.split(min(256, max(1, BATCH_STEPS // inputs.shape[1]))):
            u, lengths = task.encode(part)
            found.append(model(u.to(device), None if lengths is None else lengths.to(device)).cpu())
    return torch.cat(found)
