"""Refinement without labels: the state-space parameters of a reduced model, fitted to what the original does.

Layer by layer, in order: a block, fed with the reduced model's own stream, is to give what the original's block gives
on the original stream (mean square over variance). Then, all layers together: the model's outputs. Nothing but poles,
input and output weights and feedthroughs of the reduced layers moves, and no label is used.

Source: docs/refine.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ssmtool.errors import CalibrationError, FamilyError, MismatchError, UsageError
from ssmtool.families._contract import Layer
from ssmtool.fitting import Fit, Memory, Schedule, fit, held_out
from ssmtool.pipeline.blocks import captured
from ssmtool.pipeline.inputs import checked
from ssmtool.pipeline.leaves import Leaves
from ssmtool.pipeline.live import Place, live_layers, outputs_of, places, stream, tensors_of
from ssmtool.pipeline.live_layers import live_tensors

Step = Callable[[str, int, int], None]  # (what is being fitted, steps done, steps)
Memories = Callable[[str], Memory]


@dataclass(frozen=True)
class RefineOptions:
    """How a reduced model is refined.

    Attributes:
        steps: of Adam per layer.
        final: steps for all layers together on the model's outputs; None is three times `steps`.
        batch: sequences per step.
        rate: peak learning rate of a layer, in the units of `Leaves`: 1e-2 moves a decay by a hundredth of itself.
        final_rate: peak learning rate of the final part.
        outputs: what the model's outputs are: "classes", logits over their last axis, compared by the divergence of
            their distributions; or "values", compared by mean square.
        held_out: share of the sequences that judges, and is not fitted to.
        patience: looks, of ten in each fit, without an improvement after which it stops.
        seed: of the order of sequences.

    Raises:
        UsageError: a value out of range.
    """

    steps: int = 300
    final: int | None = None
    batch: int = 128
    rate: float = 1e-2
    final_rate: float = 1e-2
    outputs: Literal["classes", "values"] = "values"
    held_out: float = 0.1
    patience: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("final", 0), ("batch", 1), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} = {value} of a refinement is not at least {least}")
        if not 0 < self.held_out < 1:
            raise UsageError(f"held_out = {self.held_out:g} of a refinement is not between 0 and 1")
        if self.outputs not in ("classes", "values"):
            raise UsageError(f"outputs = {self.outputs!r} of a refinement is neither 'classes' nor 'values'")


@dataclass(frozen=True)
class LayerFit:
    """One layer: mean square error of its block's output over the variance of the original's, held-out sequences."""

    name: str
    fit: Fit


@dataclass(frozen=True)
class Refinement:
    """What a refinement reached, on the held-out part of the calibration inputs.

    Attributes:
        layers: in the order in which they were fitted.
        outputs: of the whole model as given and as returned: Kullback-Leibler divergence in nats for classes, mean
            square error over variance for values.
        agreement: share of held-out outputs with the original's largest entry, before and after; None for values.
        sequences: (fitted to, held out).
    """

    layers: tuple[LayerFit, ...]
    outputs: Fit
    agreement: tuple[float, float] | None
    sequences: tuple[int, int]


def refine(
    original: nn.Module,
    reduced: nn.Module,
    inputs: np.ndarray | Tensor,
    *,
    layers: Sequence[str] | None = None,
    config: Mapping[str, Any] | None = None,
    options: RefineOptions | None = None,
    noise: bool = False,
    step: Step = lambda name, done, total: None,
    memories: Memories | None = None,
) -> Refinement:
    """Fit the state-space parameters of `reduced`, in place, to `original` on unlabelled inputs.

        found = ssmtool.refine(model, smaller, inputs, options=ssmtool.RefineOptions(steps=300, outputs="classes"))
        print(found.outputs.before, found.outputs.after)

    Every fit is judged on held-out sequences and ends as the best that was seen there; if the whole model is not
    better on them than it was, its parameters are as they were.

    Args:
        original: the model as it was trained.
        reduced: the same model with smaller states; its state-space tensors may be parameters or buffers.
        inputs: (K, L, ...) float or (K, L) integer, what the models are called with; no labels.
        layers: names of the layers to fit; by default those whose state is smaller than the original's, or all
            if there are none.
        config: facts that tensors do not tell, as in config.json.
        options: how.
        noise: fit on white noise with the inputs' mean and standard deviation per channel instead, and judge on the
            inputs: a control that shows what the data are worth.
        step: called with (layer or "model", steps done, steps).
        memories: (layer or "model") -> where its fit can go on from after an interruption.

    Raises:
        FamilyError: no linear time-invariant layer, or none that a block of its own holds.
        MismatchError: the two models do not have the same layers or outputs.
        CalibrationError: fewer than two sequences, inputs without variance, or outputs that are not finite.
    """
    options = options or RefineOptions()
    data = torch.as_tensor(inputs).detach()
    checked(data.cpu().numpy())
    device = next((x.device for x in live_tensors(reduced).values()), torch.device("cpu"))
    data = (data.float() if data.is_floating_point() else data.long()).to(device)
    generator = torch.Generator().manual_seed(options.seed)
    judging, used = held_out(len(data), options.held_out, generator)
    with _evaluating(original, reduced):
        chosen = _chosen(original, reduced, layers, config)
        spots = places(reduced, chosen, data[:2])
        there = {place.layer.name: place for place in places(original, live_layers(original, config), data[:2])}
        wanted = run(original, data, options.batch)
        variance = None if options.outputs == "classes" else wanted.double().var(correction=0).item()
        if noise:
            data = torch.cat([_noise_like(data[used], options.seed), data[judging]])
            used, judging = torch.arange(len(used)), torch.arange(len(used), len(data))
            wanted = run(original, data, options.batch)
        before = _judged(reduced, data, wanted, judging, variance, options.batch)
        kept = {id(x): x.detach().clone() for place in spots for x in tensors_of(reduced, place.layer).values()}
        fits = []
        for place in spots:
            if place.layer.name not in there:
                raise MismatchError("the original has no such layer", where=place.layer.name)
            target = captured(original, there[place.layer.name].block, data, options.batch).output
            fits.append(_fit_block(reduced, place, data, target, (judging, used), options, step, memories))
        last = _fit_model(reduced, spots, data, wanted, variance, (judging, used), options, step, memories)
        after = _judged(reduced, data, wanted, judging, variance, options.batch)
        if not after[0] < before[0]:
            with torch.no_grad():
                for place in spots:
                    for x in tensors_of(reduced, place.layer).values():
                        x.copy_(kept[id(x)])
            after = before
    agreement = (before[1], after[1]) if variance is None else None
    outputs = Fit(before[0], after[0], sum(row.fit.steps for row in fits) + last.steps)
    return Refinement(tuple(fits), outputs, agreement, (len(used), len(judging)))


def _noise_like(data: Tensor, seed: int) -> Tensor:
    """White noise with the mean and standard deviation of every channel; of tokens, tokens drawn uniformly."""
    generator = torch.Generator().manual_seed(seed)
    if not data.is_floating_point():
        return torch.randint(int(data.max()) + 1, data.shape, generator=generator).to(data)
    mean, deviation = data.mean(dim=(0, 1)), data.std(dim=(0, 1))
    return mean + deviation * torch.randn(data.shape, generator=generator).to(data)


@torch.no_grad()
def run(model: nn.Module, data: Tensor, batch: int) -> Tensor:
    """The model's outputs on all sequences. Raises CalibrationError if they are not finite."""
    out = torch.cat([outputs_of(model(part)) for part in data.split(batch)])
    if not bool(torch.isfinite(out).all()):
        raise CalibrationError("the model's outputs on the calibration inputs are not finite")
    return out


def _chosen(
    original: nn.Module, reduced: nn.Module, names: Sequence[str] | None, config: Mapping[str, Any] | None
) -> tuple[Layer, ...]:
    """The layers to fit. Raises FamilyError for a name that is none."""
    found = live_layers(reduced, config)
    if names is not None:
        missing = set(names) - {layer.name for layer in found}
        if missing:
            raise FamilyError(f"there is no linear time-invariant layer {min(missing)!r} in the reduced model")
        return tuple(layer for layer in found if layer.name in names)
    slots = {layer.name: layer.slots for layer in live_layers(original, config)}
    smaller = tuple(layer for layer in found if layer.slots < slots.get(layer.name, 0))
    return smaller or found


def _fit_block(
    model: nn.Module,
    place: Place,
    data: Tensor,
    target: Tensor,
    parts: tuple[Tensor, Tensor],
    options: RefineOptions,
    step: Step,
    memories: Memories | None,
) -> LayerFit:
    """One layer, behind those already fitted."""
    block, name = model.get_submodule(place.block), place.layer.name
    calls = captured(model, place.block, data, options.batch)
    if calls.output.shape != target.shape:
        raise MismatchError(
            f"its block returns {tuple(calls.output.shape[1:])} per sequence, the original's {tuple(target.shape[1:])}",
            where=name,
        )
    leaves = Leaves(place.layer, tensors_of(model, place.layer))
    inside = {role: full[len(place.block) + 1 :] for role, full in place.layer.tensors.items()}
    judging, used = parts
    variance = target[judging].double().var(correction=0).item()  # what judges is data, also where a control fits noise

    def error(chosen: Tensor) -> Tensor:
        args, named = calls.at(chosen)
        values = {inside[role]: x for role, x in leaves.values().items()}
        out = stream(functional_call(block, values, args, named))
        assert out is not None
        return (out - target[chosen]).square().mean() / max(variance, 1e-30)

    found = _fitted({name: leaves}, error, judging, used, options.steps, options.rate, options, step, memories, name)
    _put(model, {name: leaves})
    return LayerFit(name, found)


def _fit_model(
    model: nn.Module,
    spots: tuple[Place, ...],
    data: Tensor,
    wanted: Tensor,
    variance: float | None,
    parts: tuple[Tensor, Tensor],
    options: RefineOptions,
    step: Step,
    memories: Memories | None,
) -> Fit:
    """All layers together on the model's outputs."""
    leaves = {place.layer.name: Leaves(place.layer, tensors_of(model, place.layer)) for place in spots}

    def error(chosen: Tensor) -> Tensor:
        values = {one.layer.tensors[role]: x for one in leaves.values() for role, x in one.values().items()}
        return _distance(outputs_of(functional_call(model, values, (data[chosen],))), wanted[chosen], variance)

    steps = 3 * options.steps if options.final is None else options.final
    found = _fitted(leaves, error, *parts, steps, options.final_rate, options, step, memories, "model")
    _put(model, leaves)
    return found


def _fitted(
    leaves: Mapping[str, Leaves],
    error: Callable[[Tensor], Tensor],
    judging: Tensor,
    used: Tensor,
    steps: int,
    rate: float,
    options: RefineOptions,
    step: Step,
    memories: Memories | None,
    name: str,
) -> Fit:
    def judge() -> float:
        with torch.no_grad():
            return sum(error(part).item() * len(part) for part in judging.split(options.batch)) / len(judging)

    def mend() -> None:
        for one in leaves.values():
            one.mend()

    schedule = Schedule(steps, options.batch, rate, looks=10, patience=options.patience, seed=options.seed)
    tensors = [(leaf.x, 1.0) for one in leaves.values() for leaf in one.leaves.values()]
    memory = memories(name) if memories else None
    return fit(
        tensors, error, judge, used, schedule, mend=mend, progress=lambda n, of: step(name, n, of), memory=memory
    )


@torch.no_grad()
def _put(model: nn.Module, leaves: Mapping[str, Leaves]) -> None:
    """What was fitted, into the module's own tensors."""
    for one in leaves.values():
        live = tensors_of(model, one.layer)
        for role, x in one.values().items():
            live[role].copy_(x)


def _distance(out: Tensor, wanted: Tensor, variance: float | None) -> Tensor:
    """Mean square over `variance`; without one, mean divergence of the distributions in nats."""
    if variance is None:
        log_p, log_q = F.log_softmax(wanted, dim=-1), F.log_softmax(out, dim=-1)
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1).mean()
    return (out - wanted).square().mean() / max(variance, 1e-30)


@torch.no_grad()
def _judged(
    model: nn.Module, data: Tensor, wanted: Tensor, judging: Tensor, variance: float | None, batch: int
) -> tuple[float, float]:
    """Distance of the outputs on the held-out sequences, and the share of equal largest entries."""
    out = run(model, data[judging], batch)
    if out.shape != wanted[judging].shape:
        raise MismatchError(f"the models return {tuple(out.shape[1:])} and {tuple(wanted.shape[1:])} per sequence")
    same = (out.argmax(-1) == wanted[judging].argmax(-1)).double().mean().item()
    return _distance(out.double(), wanted[judging].double(), variance).item(), same


@contextmanager
def _evaluating(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode, left as it was found."""
    modes = [[(part, part.training) for part in model.modules()] for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for pairs in modes:
            for part, mode in pairs:
                part.training = mode
