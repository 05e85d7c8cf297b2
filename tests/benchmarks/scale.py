"""A 4 GB sharded checkpoint: memory and time of inspect, hsv and compress as whole processes, beside a plain copy.

The checkpoint is a directory of 4 shards with 24 S4D layers (256 channels, order 64) among large dense weights. The
engine's own time is that of compressing a checkpoint that holds the state-space tensors alone.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

LAYERS, CHANNELS, SLOTS, SHARDS = 24, 256, 32, 4
GIGABYTES = 4.0


def state_space(rng: np.random.Generator, prefix: str) -> dict[str, np.ndarray]:
    """Tensors of one S4D layer with poles near their initialisation."""
    shape = (CHANNELS, SLOTS)
    frequency = np.pi * (np.arange(SLOTS) + 0.1 * rng.standard_normal(shape))
    return {
        f"{prefix}D": rng.standard_normal(CHANNELS).astype(np.float32),
        f"{prefix}kernel.C": rng.standard_normal((*shape, 2)).astype(np.float32),
        f"{prefix}kernel.log_dt": rng.uniform(np.log(1e-3), np.log(1e-1), CHANNELS).astype(np.float32),
        f"{prefix}kernel.log_A_real": (np.log(0.5) + 0.3 * rng.standard_normal(shape)).astype(np.float32),
        f"{prefix}kernel.A_imag": frequency.astype(np.float32),
    }


def make(folder: Path, gigabytes: float) -> None:
    """A sharded directory with config.json; `gigabytes` of dense weights beside the layers."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    filler = int(gigabytes * 2**30 / LAYERS / 4)
    weight_map = {}
    for shard in range(SHARDS):
        name = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        tensors: dict[str, np.ndarray] = {}
        for i in range(shard, LAYERS, SHARDS):
            tensors |= state_space(rng, f"model.layers.{i}.ssm.")
            if filler:
                tensors[f"model.layers.{i}.mlp.weight"] = rng.random(filler, dtype=np.float32)
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"model_type": "s4d", "d_state": 2 * SLOTS}))


def process(*arguments: str) -> tuple[float, float]:
    """Wall time in seconds and peak resident memory in GB of one ssmtool process."""
    command = [sys.executable, "-m", "ssmtool", *arguments]
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, error = child.communicate()
    seconds = time.perf_counter() - begin
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)}: {error.decode()}")
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


def show(what: str, value: float, unit: str, target: str = "", met: bool = True) -> None:
    """One line of the table."""
    verdict = f"   target {target}: {'met' if met else 'MISSED'}" if target else ""
    print(f"  {what:34s} {value:8.2f} {unit}{verdict}")


def run() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("SSMTOOL_BENCH_DIR")) as temporary:
        root = Path(temporary)
        helps = sorted(process("--help")[0] for _ in range(5))
        show("ssmtool --help, median of 5", helps[2], "s ", "0.4 s", helps[2] <= 0.4)
        make(root / "big", GIGABYTES)
        inspects = sorted(process("inspect", str(root / "big"))[0] for _ in range(5))
        show(f"inspect, {GIGABYTES:g} GB, median of 5", inspects[2], "s ", "1 s", inspects[2] <= 1)
        copies = []
        for i in range(2):
            begin = time.perf_counter()
            shutil.copytree(root / "big", root / f"copy{i}")
            os.sync()
            copies.append(time.perf_counter() - begin)
            shutil.rmtree(root / f"copy{i}")
        copy = min(copies)
        show("plain copy and sync", copy, "s ")
        make(root / "small", 0.0)
        engine, _ = process("compress", str(root / "small"), "-o", str(root / "small-out"), "--rank", "16")
        show("compress, the layers alone (engine)", engine, "s ")
        show("hsv", process("hsv", str(root / "big"))[0], "s ")
        seconds, memory = process("compress", str(root / "big"), "-o", str(root / "out"), "--rank", "16")
        limit = 3 * copy + engine
        show("compress --rank 16", seconds, "s ", f"3 copies + engine = {limit:.1f} s", seconds <= limit)
        show("peak resident memory of all", memory, "GB", "1.5 GB", memory <= 1.5)


if __name__ == "__main__":
    run()
