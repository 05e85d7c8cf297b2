"""Every command that writes, on small inputs, with what it is to leave."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from ssmtool import plugins


@dataclass(frozen=True)
class Command:
    """One command line.

    Attributes:
        args: after `ssmtool`, run in the folder of the inputs.
        results: what it leaves there.
        again: whether it may be run when its result is there already.
        same: names of results that are the same bytes every time.
        keeps: what it may leave behind when it is killed, to go on from; gone, or part of the result, at the end.
    """

    args: tuple[str, ...]
    results: tuple[str, ...]
    again: bool = False
    same: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()

    @property
    def repeated(self) -> tuple[str, ...]:
        return self.same or self.results


TRAIN = ("--width", "4", "--depth", "1", "--slots", "3", "--epochs", "2", "--batch", "256")
REFINE = ("--refine", "40", "--final", "40", "--calibrate", "inputs.npy")
TOKENS = ("--tokens", "tokens.npy")
OUT = "out.safetensors"

COMMANDS = {
    "compress": Command(("compress", "s4d.safetensors", "--rank", "2", "-o", OUT, "--no-cache"), (OUT,)),
    "compress_directory": Command(("compress", "sharded", "--rank", "2", "-o", "out", "--no-cache"), ("out",)),
    "compress_cached": Command(
        ("compress", "sharded", "--rank", "2", "-o", "out", "--cache", "kept"), ("out",), keeps=("kept",)
    ),
    "refine": Command(
        ("compress", "ref.safetensors", "--rank", "4", *REFINE, "-o", OUT), (OUT,), keeps=(".out.safetensors.refine",)
    ),
    "train": Command(
        ("train", "-o", "run", *TRAIN), ("run",), again=True, same=("run/model.safetensors",), keeps=("run",)
    ),
    "realize": Command(("realize", "kernel.npy", "--rank", "4", "-o", OUT), (OUT,)),
    "identify": Command(("identify", "u.npy", "y.npy", "--order", "2", "-o", OUT), (OUT,)),
    "hsv": Command(
        ("hsv", "s4d.safetensors", "--csv", "hsv.csv", "--plot", "hsv.svg", "--no-cache"),
        ("hsv.csv", "hsv.svg"),
        again=True,
    ),
    "table": Command(
        ("hsv", "s4d.safetensors", "--csv", "hsv.csv", "--no-cache"), ("hsv.csv",), again=True
    ),
    "check": Command(
        ("check", "s4d.safetensors", "--no-cache", "--format", "junit:check.xml", "--format", "markdown:check.md"),
        ("check.xml", "check.md"),
        again=True,
        same=("check.md",),
    ),
    "diagnose": Command(
        ("diagnose", "s4d.safetensors", "--section", "timescales", "--plot", "parts.svg"),
        ("parts.svg",),
        again=True,
    ),
    "selective_refit": Command(
        ("compress", "mamba", "--rank", "4", "--refit", "6", *TOKENS, "-o", "out", "--no-cache"), ("out",)
    ),
    "selective_cached": Command(
        ("compress", "mamba", "--rank", "4", "--refit", "6", *TOKENS, "-o", "out", "--cache", "kept"),
        ("out",),
        keeps=("kept",),
    ),
    "selective_projected": Command(
        ("compress", "mamba2", "--rank", "8", "--export", "projected", *TOKENS, "-o", "out", "--no-cache"), ("out",)
    ),
    "selective_hsv": Command(
        ("hsv", "mamba", *TOKENS, "--csv", "hsv.csv", "--plot", "hsv.svg", "--no-cache"),
        ("hsv.csv", "hsv.svg"),
        again=True,
    ),
    "report": Command(
        ("report", "s4d.safetensors", "-o", "report.html", "--no-cache"), ("report.html",), again=True
    ),
    "report_cached": Command(
        ("report", "s4d.safetensors", "-o", "report.html", "--measure", "2", "--cache", "kept"),
        ("report.html",),
        again=True,
        keeps=("kept",),
    ),
    "selective_report": Command(
        ("report", "mamba", *TOKENS, "-o", "report.html", "--cache", "kept"),
        ("report.html",),
        again=True,
        keeps=("kept",),
    ),
    "compress_pickle": Command(("compress", "s4d.pt", "--rank", "2", "-o", OUT, "--no-cache"), (OUT,)),
    "drop_blocks": Command(
        ("compress", "mamba", "--drop-blocks", "1", "--tokens", "tokens.npy", "-o", "out"), ("out",)
    ),
    "plot": Command(
        ("plot", "s4d.safetensors", "--kind", "poles", "-o", "poles.pdf"), ("poles.pdf",), again=True
    ),
    "hsv_png": Command(("hsv", "s4d.safetensors", "--plot", "hsv.png", "--no-cache"), ("hsv.png",), again=True),
}  # fmt: skip


def make_inputs(folder: Path) -> None:
    """Everything the commands read."""
    from ssmtool.reference.layouts._contract import Sizes
    from ssmtool.reference.model import create
    from tests.pipeline.language_models import byte_model
    from tests.pipeline.live_models import sequences

    folder.mkdir(parents=True)
    arrays, _ = plugins.load("ssmtool.families", "s4d").tiny("s4d", 0)
    tensors = {name: torch.from_numpy(np.array(x, order="C")) for name, x in arrays.items()}
    save_file(tensors, folder / "s4d.safetensors", metadata={"format": "pt"})
    torch.save(tensors, folder / "s4d.pt")
    sharded(folder / "sharded", tensors)
    model = create("s4d", Sizes(2, 4, 3, (6, 6)), seed=1)
    save_file({name: x.detach().contiguous() for name, x in model.state_dict().items()}, folder / "ref.safetensors")
    np.save(folder / "inputs.npy", sequences(40).numpy())
    k, chance = np.arange(100), np.random.default_rng(0)
    waves = np.stack([np.exp(-0.05 * k) * np.cos(0.4 * k), np.exp(-0.1 * k) * np.cos(1.7 * k)])
    np.save(folder / "kernel.npy", chance.standard_normal((3, 2)) @ waves)
    u = chance.standard_normal(600)
    y = np.zeros(600)
    for t in range(2, 600):  # a resonance: poles 0.75 +- 0.497i
        y[t] = 1.5 * y[t - 1] - 0.81 * y[t - 2] + 0.5 * u[t] + 0.2 * u[t - 1]
    np.save(folder / "u.npy", u)
    np.save(folder / "y.npy", y)
    byte_model(folder / "mamba", "mamba")
    byte_model(folder / "mamba2", "mamba2")
    np.save(folder / "tokens.npy", chance.integers(0, 256, (8, 24)))


def sharded(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """A directory with two shards, an index, a configuration, a card, and a folder of its own."""
    (folder / "more").mkdir(parents=True)
    first = "s4_layers.0."
    home = {n: f"model-0000{1 if n.startswith(first) else 2}-of-00002.safetensors" for n in tensors}
    for shard in set(home.values()):
        save_file({n: t for n, t in tensors.items() if home[n] == shard}, folder / shard, metadata={"format": "pt"})
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": home}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"model_type": "toy"}')
    (folder / "README.md").write_text("# Toy\n\n## Use\n\ntext\n")
    (folder / "more" / "vocab.txt").write_text("a\nb\n")


def verify(path: Path) -> None:
    """Open what a command wrote as far as something other than this program can."""
    from safetensors import safe_open

    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - no mapping
                    opened.get_tensor(name)
        elif file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix in (".svg", ".xml"):
            assert file.read_text().rstrip().endswith(("</svg>", "</testsuites>"))
        elif file.suffix == ".html":
            assert file.read_text().rstrip().endswith("</html>")
        elif file.suffix == ".pdf":
            assert file.read_bytes().rstrip().endswith(b"%%EOF")
        elif file.suffix == ".png":
            assert file.read_bytes().endswith(b"IEND\xaeB`\x82")
        elif file.suffix == ".csv":
            assert file.read_text().endswith("\n")
