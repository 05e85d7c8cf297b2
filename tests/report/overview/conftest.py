"""Portraits of small models, made once."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

import ssmtool
from ssmtool import plugins
from ssmtool.pipeline.portrait import Portrait, portrait
from ssmtool.pipeline.tokens import TokenSource
from tests.pipeline.language_models import byte_model

EVIL = "a</script><!--<img src=x onerror=alert(1)>\u2028\u202e|`*{{7*7}}"


def evil_checkpoint(path, name: str = EVIL):
    """An S4D checkpoint, one of whose layers has a name that tries everything."""
    tensors, _ = plugins.load("ssmtool.families", "neutral").tiny("batch", 0)
    save_file({key.replace("model.layers.0", name): np.array(x, order="C") for key, x in tensors.items()}, path)
    return path


@pytest.fixture(scope="session")
def linear(tmp_path_factory) -> Portrait:
    """Two S4D layers against a reduction, with measured ranks."""
    folder = tmp_path_factory.mktemp("linear")
    tensors, _ = plugins.load("ssmtool.families", "s4d").tiny("s4d", 0)
    save_file({key: np.array(x, order="C") for key, x in tensors.items()}, folder / "model.safetensors")
    model = ssmtool.load(folder / "model.safetensors")
    ssmtool.compress(model, folder / "reduced.safetensors", rank=2)
    reduced = ssmtool.load(folder / "reduced.safetensors")
    return portrait(model, reduced, ranks=(4,))


@pytest.fixture(scope="session")
def evil(tmp_path_factory) -> Portrait:
    """A model whose first layer has an evil name."""
    return portrait(ssmtool.load(evil_checkpoint(tmp_path_factory.mktemp("evil") / "m.safetensors")), ranks=(4,))


@pytest.fixture(scope="session")
def selective(tmp_path_factory) -> Portrait:
    """Two Mamba-2 layers on tokens."""
    model = ssmtool.load(byte_model(tmp_path_factory.mktemp("selective") / "model", "mamba2"))
    return portrait(model, source=TokenSource(sampled=6, length=32))
