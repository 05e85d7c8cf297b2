"""What the pages call by a name of the reader's, and what stands for it here: small models and short inputs.

A stand-in is a function of the path to write, in the current folder, and of a function that provides other names.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ssmtool import plugins

Make = Callable[[Path, Callable[[str], None]], None]


def linear(path: Path, provide: Callable[[str], None]) -> None:
    """A reference model of two S4D layers with four channels of order 32, that runs without code of its own."""
    from safetensors.torch import save_file as save

    from ssmtool.reference.layouts._contract import Sizes
    from ssmtool.reference.model import create

    model = create("s4d", Sizes(2, 4, 3, (16, 16)), seed=1)
    save({name: x.detach().contiguous() for name, x in model.state_dict().items()}, path)


def own(path: Path, provide: Callable[[str], None]) -> None:
    """Tensors for the model whose code is in docs/refine.md."""
    from safetensors.torch import save_file as save

    from tests.pipeline.live_models import s4d_state

    state = {f"module.{name}": x for name, x in s4d_state().items() if ".mix." not in name}
    save({name: x.contiguous() for name, x in state.items()}, path)


def smaller(path: Path, provide: Callable[[str], None]) -> None:
    """The linear model after compression."""
    import ssmtool

    provide("model.safetensors")
    ssmtool.compress(ssmtool.load("model.safetensors"), path, rank=16)


def selective(path: Path, provide: Callable[[str], None]) -> None:
    """A Mamba-2 language model of bytes with random weights: two blocks of 128 states."""
    import torch
    from safetensors.torch import save_file as save

    from ssmtool.training.language.model import ByteModel, Sizes

    torch.manual_seed(0)
    model = ByteModel(Sizes("mamba2", width=32, depth=2, states=128, head=16))
    path.mkdir()
    save({name: x.detach().contiguous() for name, x in model.state_dict().items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(model.config()), encoding="utf-8")


def selective_smaller(path: Path, provide: Callable[[str], None]) -> None:
    """Its projection to 8 states."""
    import ssmtool

    provide("mamba2-370m")
    provide("calibration.npy")
    model = ssmtool.load("mamba2-370m")
    runner = ssmtool.open_runner(model)
    tokens = ssmtool.read_tokens(ssmtool.TokenSource(file="calibration.npy"), model, runner)
    ssmtool.compress_selective(model, runner, tokens, path, rank=8, export="projected")


def inputs(path: Path, provide: Callable[[str], None]) -> None:
    """Sixteen sequences of twelve steps and two channels."""
    from tests.pipeline.live_models import sequences

    np.save(path, sequences(16).numpy().astype(np.float16))


def tokens(path: Path, provide: Callable[[str], None]) -> None:
    """Eight sequences of 48 bytes."""
    np.save(path, np.load("fixtures/stdlib-calibration.npy")[:8, :48])


def outputs(path: Path, provide: Callable[[str], None]) -> None:
    """What a system of two states makes of a record of inputs, u.npy beside it."""
    rng = np.random.default_rng(0)
    u, x, y = rng.normal(size=(600, 1)), np.zeros(2), []
    for step in u:
        x = np.array([[0.9, 0.2], [-0.2, 0.9]]) @ x + step
        y.append(x[:1] + 0.01 * rng.normal(size=1))
    np.save(path.with_name("u.npy"), u)
    np.save(path, np.array(y))


def kernel(path: Path, provide: Callable[[str], None]) -> None:
    """Two impulse responses of 256 lags."""
    lags = np.arange(256)
    np.save(path, np.stack([0.95**lags * np.cos(0.3 * lags), 0.9**lags - 0.5 * 0.8**lags]))


def baseline(path: Path, provide: Callable[[str], None]) -> None:
    """What a check of the linear model found."""
    from ssmtool.cli.run import run

    provide("model.safetensors")
    run(["check", "model.safetensors", "--exit-zero", "--format", f"json:{path}"])


def tiny(family: str) -> Make:
    """The small random checkpoint that a family makes for the tests: its first layout."""

    def make(path: Path, provide: Callable[[str], None]) -> None:
        module = plugins.load("ssmtool.families", family)
        tensors, config = module.tiny(module.VARIANTS[0], 0)
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(config or {}), encoding="utf-8")
        save_file({name: np.array(x, order="C") for name, x in tensors.items()}, path / "model.safetensors")

    return make


STANDINS: dict[str | tuple[str, str], Make] = {
    **{f"checkpoints/{family}": tiny(family) for family in plugins.names("ssmtool.families")},
    "model.safetensors": linear,
    "retrained.safetensors": linear,
    "last.json": baseline,
    "smaller.safetensors": smaller,
    "inputs.npy": inputs,
    "mamba2": selective,
    "mamba2-370m": selective,
    "mamba2-370m-rank64": selective_smaller,
    "mamba2-370m-rank32": selective_smaller,
    "calibration.npy": tokens,
    "kernel.npy": kernel,
    ("docs/refine.md", "model.safetensors"): own,
    ("README.md", "y.npy"): outputs,
    ("README.md", "smaller.safetensors"): smaller,  # not what its Python writes from another model
}
