"""Refinement of modules: better on held-out inputs or as it was, and nothing moves but the state-space tensors."""

from __future__ import annotations

import copy
import dataclasses
import inspect

import numpy as np
import pytest
import torch

import ssmtool
from ssmtool.errors import CalibrationError, FamilyError, MismatchError, SsmtoolError, UsageError
from ssmtool.pipeline.refine import Refinement, RefineOptions, refine
from tests.pipeline.live_models import Stack, built, s4d_state, sequences, smaller

SHORT = RefineOptions(steps=25, final=25, batch=24)


def pair(**options):
    """A model and one with half of the states of its layers."""
    original = Stack(**options).eval()
    return original, smaller(original, 2).eval()


def bytes_of(model):
    return {name: x.detach().clone() for name, x in model.state_dict().items()}


def moved(before, model):
    return {name for name, x in model.state_dict().items() if not torch.equal(x, before[name])}


def held_out_error(original, reduced, data, seed=0):
    """Of the outputs on the sequences that judge, over the variance of all outputs: from the definition."""
    judging = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[: round(0.1 * len(data))]
    with torch.no_grad():
        wanted = original(data).double()
        return ((reduced(data[judging]) - wanted[judging]).square().mean() / wanted.var(correction=0)).item()


STATES = {f"layers.{i}.ssm.{name}" for i in range(2) for name in ("lambda_log", "B", "C", "D")}


@pytest.mark.parametrize("how", ["module", "method", "keyword", "tuple"])
@pytest.mark.parametrize("buffers", [False, True])
def test_outputs_come_closer_and_only_state_spaces_move(how, buffers):
    original, reduced = pair(how=how, buffers=buffers)
    data, before, untouched = sequences(), bytes_of(reduced), bytes_of(original)
    start = held_out_error(original, reduced, data)
    found = refine(original, reduced, data, options=SHORT)
    assert moved(before, reduced) == STATES
    assert not moved(untouched, original)
    assert found.outputs.before == pytest.approx(start, rel=1e-4)  # float32 outputs in batches of other sizes
    assert found.outputs.after == pytest.approx(held_out_error(original, reduced, data), rel=1e-4)
    assert found.outputs.after < 0.5 * found.outputs.before
    assert [row.name for row in found.layers] == ["layers.0.ssm", "layers.1.ssm"]
    assert all(row.fit.after < row.fit.before for row in found.layers)
    assert found.sequences == (43, 5)
    assert found.agreement is None


def test_arrays_are_taken_as_tensors_are_and_runs_are_the_same():
    results = []
    for data in (sequences(), sequences().numpy(), sequences().double()):
        original, reduced = pair()
        results.append((refine(original, reduced, data, options=SHORT), bytes_of(reduced)))
    for found, tensors in results[1:]:
        assert found == results[0][0]
        assert all(torch.equal(x, tensors[name]) for name, x in results[0][1].items())


def test_classes_of_a_model_that_reads_tokens():
    original, reduced = pair(tokens=7)
    data = torch.randint(7, (48, 20), generator=torch.Generator().manual_seed(0))
    found = refine(original, reduced, data, options=dataclasses.replace(SHORT, outputs="classes"))
    judging = torch.randperm(48, generator=torch.Generator().manual_seed(0))[:5]
    with torch.no_grad():
        p, q = (model(data[judging]).double().log_softmax(-1) for model in (original, reduced))
    assert found.outputs.after == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-3)
    assert found.outputs.after < found.outputs.before
    assert found.agreement is not None
    assert found.agreement[1] == pytest.approx((p.argmax(-1) == q.argmax(-1)).double().mean().item())


def test_what_would_be_worse_is_given_back_as_it_was():
    original, reduced = pair()
    before = bytes_of(reduced)
    found = refine(original, reduced, sequences(), options=RefineOptions(steps=3, final=3, rate=1e3, final_rate=1e3))
    assert found.outputs.after <= found.outputs.before
    if found.outputs.after == found.outputs.before:
        assert not moved(before, reduced)


def test_nothing_is_better_than_equal():
    original, _ = pair()
    same = copy.deepcopy(original)
    found = refine(original, same, sequences(), options=SHORT)
    assert found.outputs.before == 0 == found.outputs.after
    assert not moved(bytes_of(original), same)


def test_a_chosen_layer_alone_moves():
    original, reduced = pair()
    before = bytes_of(reduced)
    refine(original, reduced, sequences(), layers=["layers.1.ssm"], options=SHORT)
    assert moved(before, reduced) == {name for name in STATES if name.startswith("layers.1.")}


def test_layers_of_the_same_size_stay_where_others_are_smaller():
    original, reduced = pair()
    reduced.layers[0] = copy.deepcopy(original.layers[0])
    before = bytes_of(reduced)
    found = refine(original, reduced, sequences(), options=SHORT)
    assert [row.name for row in found.layers] == ["layers.1.ssm"]
    assert moved(before, reduced) == {name for name in STATES if name.startswith("layers.1.")}


def test_streams_with_channels_before_time():
    original = built(s4d_state())
    state = {n: x[:, :3].contiguous() if "kernel." in n and x.ndim > 1 else x for n, x in s4d_state().items()}
    reduced = built(state)
    before = bytes_of(reduced)
    found = refine(original, reduced, sequences(), options=SHORT)
    assert found.outputs.after < 0.5 * found.outputs.before
    changed = moved(before, reduced)
    assert {name.rpartition(".")[2] for name in changed} == {"C", "D", "log_A_real", "A_imag"}


def test_noise_is_a_worse_teacher_and_judged_on_the_same_inputs():
    """Inputs of one slow frequency; white noise has all, and wants what the two states cannot give."""
    t = torch.arange(40)
    phase = 6 * torch.rand(48, 1, 2, generator=torch.Generator().manual_seed(0))
    data = torch.sin(0.15 * t[None, :, None] + phase)
    results = []
    for noise in (False, True):
        original, reduced = pair()
        results.append(refine(original, reduced, data, options=SHORT, noise=noise))
    real, control = results
    assert control.outputs.before == pytest.approx(real.outputs.before, rel=1e-4)
    assert control.layers[0].fit.before == pytest.approx(real.layers[0].fit.before, rel=1e-4)
    assert real.outputs.after < control.outputs.after


def test_progress_is_told_per_layer_and_modes_are_left_as_they_were():
    original, reduced = pair()
    reduced.train()
    told = []
    refine(
        original, reduced, sequences(), options=SHORT, step=lambda name, done, total: told.append((name, done, total))
    )
    assert {name for name, _, _ in told} == {"layers.0.ssm", "layers.1.ssm", "model"}
    assert told[-1] == ("model", 25, 25)
    assert all(part.training for part in reduced.modules())
    assert not original.training


def test_two_sequences_are_enough_and_one_output_per_sequence_has_a_variance():
    original, reduced = pair()
    found = refine(original, reduced, sequences(2), options=SHORT)
    assert found.sequences == (1, 1)
    assert np.isfinite([found.outputs.before, found.outputs.after]).all()


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"steps": -1}, UsageError, "steps"),
        ({"batch": 0}, UsageError, "batch"),
        ({"patience": 0}, UsageError, "patience"),
        ({"held_out": 1.0}, UsageError, "held_out"),
        ({"outputs": "labels"}, UsageError, "neither"),
    ],
)
def test_options_out_of_range_are_refused(change, error, reason):
    with pytest.raises(error, match=reason):
        RefineOptions(**change)


def refused(error, match, original, reduced, data, **options):
    before = bytes_of(reduced)
    with pytest.raises(error, match=match) as caught:
        refine(original, reduced, data, options=SHORT, **options)
    assert isinstance(caught.value, SsmtoolError)
    assert "\n" not in str(caught.value)
    assert not moved(before, reduced)


def test_bad_input_is_one_line_and_changes_nothing():
    original, reduced = pair()
    data = sequences()
    refused(CalibrationError, "not several sequences", original, reduced, data[:1])
    refused(CalibrationError, "zero variance", original, reduced, torch.ones(4, 5, 2))
    refused(CalibrationError, "not finite", original, reduced, data * torch.nan)
    refused(CalibrationError, "1 steps", original, reduced, data[:, :1])
    refused(CalibrationError, "does not run", original, reduced, data[..., :1])
    refused(FamilyError, "no linear time-invariant layer 'x'", original, reduced, data, layers=["x"])
    other = Stack(width=5).eval()
    refused(MismatchError, "its block returns", other, reduced, data)
    broken = copy.deepcopy(original)
    with torch.no_grad():
        broken.decoder.weight.fill_(torch.nan)
    refused(CalibrationError, "outputs on the calibration inputs are not finite", broken, reduced, data)


def test_the_public_names():
    assert ssmtool.refine is refine
    assert ssmtool.RefineOptions is RefineOptions
    assert {"refine", "RefineOptions"} <= set(ssmtool.__all__)
    assert "ssmtool.refine(model, smaller, inputs" in (inspect.getdoc(refine) or "")
    assert inspect.signature(refine).return_annotation == Refinement.__name__
