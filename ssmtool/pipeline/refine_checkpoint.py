"""A refinement between reduction and writing: the reduced tensors run, are fitted, and are measured again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ssmtool.checkpoint import round_to
from ssmtool.errors import MismatchError
from ssmtool.families._contract import Layer
from ssmtool.lti.norms import difference, h2_norm, hinf_norm
from ssmtool.lti.split import split
from ssmtool.pipeline.compression import LayerReduction
from ssmtool.pipeline.live import live_layers, tensors_of
from ssmtool.pipeline.live_layers import wide
from ssmtool.pipeline.refine import Refinement, RefineOptions, Step, refine
from ssmtool.pipeline.resume import Resume
from ssmtool.pipeline.storage import Tensors, reread, stored_layer
from ssmtool.pipeline.workbench import Workbench


def refine_checkpoint(
    bench: Workbench,
    rows: list[LayerReduction],
    stored: dict[str, Tensors],
    config: dict[str, Any] | None,
    options: RefineOptions,
    *,
    control: bool,
    device: str,
    step: Step,
    resume: Resume | None = None,
) -> tuple[list[LayerReduction], dict[str, Tensors], Refinement, Refinement | None]:
    """Fit the reduced layers to the original model.

    Args:
        bench: the original, and the inputs.
        rows: what was done to each layer.
        stored: reduced tensors by layer name.
        config: of the reduced checkpoint.
        options: how.
        control: fit a second copy on white noise with the inputs' mean and variance, judged on the inputs.
        step: progress.
        resume: where fits can go on from.

    Returns:
        Rows with errors measured anew, tensors, the refinement, and the control.

    Raises:
        MismatchError: the module built from the reduced tensors lacks one of the layers.
    """
    names = [row.layer.name for row in rows if row.layer.name in stored]

    def run(noise: bool) -> tuple[Refinement, torch.nn.Module]:
        module = bench.module(stored)
        found = refine(
            bench.original,
            module,
            bench.data,
            layers=names,
            config=config,
            options=options,
            noise=noise,
            step=(lambda name, done, total: step(f"{name}, control", done, total)) if noise else step,
            memories=None if noise or resume is None else resume.memory,
        )
        return found, module

    refinement, module = run(noise=False)
    live = {layer.name: layer for layer in live_layers(module, config)}
    fitted: dict[str, Tensors] = {}
    again = []
    for row in rows:
        layer = row.layer
        if layer.name not in stored:
            again.append(row)
            continue
        if layer.name not in live:
            raise MismatchError("the model built from the reduced tensors has no such layer", where=layer.name)
        fitted[layer.name] = tensors = _taken(bench, layer, stored[layer.name], tensors_of(module, live[layer.name]))
        again.append(_measured(bench, row, tensors, device))
    return again, fitted, refinement, run(noise=True)[0] if control else None


def _taken(bench: Workbench, layer: Layer, tensors: Tensors, values: dict[str, torch.Tensor]) -> Tensors:
    """The reduced tensors with the fitted values; what was not changed by either stays out."""
    checkpoint = bench.model.checkpoint
    found = dict(tensors)
    for role, name in stored_layer(bench.model, layer, tensors).tensors.items():
        array, dtype = tensors.get(name, (None, ""))
        if array is None:
            array, dtype = checkpoint.read(name), checkpoint.tensors[name].dtype
        given = torch.from_numpy(round_to(array, dtype)).to(values[role].dtype)  # as the module got it
        if not torch.equal(values[role].detach().cpu(), given):
            found[name] = (wide(values[role].detach()).cpu().numpy(), dtype)
    return found


def _measured(bench: Workbench, row: LayerReduction, tensors: Tensors, device: str) -> LayerReduction:
    """The row with the errors of the fitted tensors; a bound no longer holds."""
    system = split(bench.model.system(row.layer))[0]
    now = reread(bench.model, row.layer, tensors)
    error = difference(system, split(now)[0])
    return replace(
        row,
        orders=np.full_like(row.orders, min(stored_layer(bench.model, row.layer, tensors).order, row.layer.order)),
        bound=np.full_like(row.bound, np.nan),
        hinf=hinf_norm(error, device),
        h2=h2_norm(error, device),
        refined=True,
    )
