"""Damaged checkpoints: loading, spectra and compression succeed or raise an error of ours, never anything else."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssmtool.errors import SsmtoolError
from ssmtool.pipeline.compress import compress
from ssmtool.pipeline.model import load
from tests.pipeline.checkpoints import CASES, tiny, write_folder, written


def reshaped(tensor: torch.Tensor, how: str) -> torch.Tensor:
    if how == "flat":
        return tensor.reshape(-1)
    if how == "axis more":
        return tensor[None]
    if how == "axis less":
        return tensor[0] if tensor.ndim else tensor
    if how == "one row less":
        return tensor[:-1] if tensor.ndim else tensor
    if how == "last column less":
        return tensor[..., :-1] if tensor.ndim else tensor
    if how == "transposed":
        return tensor.mT if tensor.ndim >= 2 else tensor
    if how == "empty":
        return tensor.reshape(-1)[:0]
    return tensor


VALUES = ("zeros", "huge", "tiny", "negative", "NaN", "whole numbers", "half precision", "complex")


def revalued(tensor: torch.Tensor, how: str) -> torch.Tensor:
    if how == "complex":
        return tensor.to(torch.complex64)
    if how == "whole numbers":
        return (tensor.real if tensor.is_complex() else tensor).to(torch.int64)
    if how == "half precision":
        return tensor if tensor.is_complex() else tensor.to(torch.float16)
    factor = {"zeros": 0.0, "huge": 1e30, "tiny": 1e-30, "negative": -1.0, "NaN": float("nan")}[how]
    return tensor if not (tensor.is_floating_point() or tensor.is_complex()) else tensor * factor


@st.composite
def mutated(draw):
    """A family's tiny checkpoint with one to three tensors dropped, renamed, reshaped or given other values."""
    family, variant = draw(st.sampled_from(CASES))
    tensors, config = tiny(family, variant)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(tensors)))
        kind = draw(st.sampled_from(["drop", "rename", "shape", "value", "swap", "duplicate"]))
        if kind == "drop" and len(tensors) > 1:
            del tensors[name]
        elif kind == "rename":
            tensors[draw(st.sampled_from(["x." + name, name + "_2", name.replace(".0.", ".7.")]))] = tensors.pop(name)
        elif kind == "shape":
            shapes = ["flat", "axis more", "axis less", "one row less", "last column less", "transposed", "empty"]
            tensors[name] = reshaped(tensors[name], draw(st.sampled_from(shapes)))
        elif kind == "value":
            tensors[name] = revalued(tensors[name], draw(st.sampled_from(VALUES)))
        elif kind == "swap":
            other = draw(st.sampled_from(sorted(tensors)))
            tensors[name], tensors[other] = tensors[other], tensors[name]
        elif kind == "duplicate":
            tensors["copy." + name] = tensors[name]
    if draw(st.booleans()):
        config = None
    return {name: t.clone().contiguous() for name, t in tensors.items()}, config


# huge values overflow on the way to an error of ours, complex ones are cast: NumPy's warnings about it are no crash
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(mutated(), st.sampled_from([{"rank": 2}, {"energy": 0.9}, {"error": 0.1}, {"budget": 0.5}]))
def test_damage_is_reported_and_never_crashes(checkpoint, target):
    scratch = Path(tempfile.mkdtemp())
    try:
        folder = write_folder(scratch / "model", *checkpoint)
        with suppress(SsmtoolError):
            model = load(folder)
            with suppress(SsmtoolError):
                assert not any(np.isnan(found.spectrum.sigma).any() for found in model.hsv(device="cpu"))
            done = compress(model, None, device="cpu", **target)
            assert load(written(done)).layers
            assert np.isfinite([(row.hinf_relative, row.h2_relative) for row in done.layers]).all()
        left = {path.name for path in scratch.iterdir()} - {"model"}
        assert all((scratch / name / "model.safetensors").is_file() for name in left), "an incomplete output"
    finally:
        shutil.rmtree(scratch)
