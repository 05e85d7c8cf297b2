"""Tiny checkpoints of every family on disk, and what a pair of them says about itself without the pipeline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ssmtool import plugins
from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.families._contract import Layer
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.systems import System
from ssmtool.pipeline.compress import Compression

PACKAGE = "ssmtool.families"
CASES = [
    (family, variant)
    for family in plugins.names(PACKAGE)
    if hasattr(plugins.load(PACKAGE, family), "to_system")
    for variant in plugins.load(PACKAGE, family).VARIANTS
]
STORED = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.complex64: "C64",
    torch.int64: "I64",
}  # fmt: skip
README = "# A model\n\nWords about it.\n\n## Use\n\nlike this\n"


def tiny(family: str, variant: str, seed: int = 3) -> tuple[dict[str, torch.Tensor], dict | None]:
    """Tensors of the family's tiny checkpoint, and its config."""
    arrays, config = plugins.load(PACKAGE, family).tiny(variant, seed)
    # np.array keeps 0-d arrays 0-d and makes everything contiguous
    return {name: torch.from_numpy(np.array(x, order="C")) for name, x in arrays.items()}, config


def write_folder(folder: Path, tensors: dict[str, torch.Tensor], config: dict | None) -> Path:
    """A directory with weights, a card and a file of its own; config.json if there is one."""
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt", "made": "for a test"})
    (folder / "README.md").write_text(README)
    (folder / "vocab.txt").write_text("a\nb\n")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


def written(done: Compression) -> Path:
    """Where the result of a compression that was no dry run is."""
    assert done.output is not None
    return done.output


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors" if path.is_dir() else path)


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def systems_of(path: Path, family: str, config: dict | None) -> dict[str, tuple[Layer, System]]:
    """Layers of a file as canonical systems without feedthrough, read with the safetensors library."""
    module = plugins.load(PACKAGE, family)
    tensors = tensors_of(path)
    infos = {name: TensorInfo(tuple(t.shape), STORED[t.dtype]) for name, t in tensors.items()}
    found = {}
    for layer in module.layers(infos, config):
        arrays = {role: _widened(tensors[name]) for role, name in layer.tensors.items()}
        system = module.to_system(layer, arrays)
        found[layer.name] = (layer, replace(system, D=np.zeros_like(system.D)))
    return found


def _widened(tensor: torch.Tensor) -> np.ndarray:
    if tensor.is_complex():
        return tensor.to(torch.complex128).numpy()
    return tensor.to(torch.float64 if tensor.is_floating_point() else torch.int64).numpy()


def measured_errors(one: System, two: System, length: int = 8192) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """H2 and H-infinity error (S,) and H2 norm of the first, from impulse responses alone."""
    h, g = impulse_response(one, length), impulse_response(two, length)
    h2 = np.sqrt(np.square(h - g).sum(axis=(1, 2, 3)))
    gains = np.linalg.norm(np.moveaxis(np.fft.rfft(h - g, 2 * length), -1, 1), ord=2, axis=(2, 3))
    return h2, gains.max(axis=1), np.sqrt(np.square(h).sum(axis=(1, 2, 3)))
