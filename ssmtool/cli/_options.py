"""Arguments and options that several sub-commands share, so that they read and mean the same everywhere."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ssmtool.cli import _complete

CHECKPOINT = (
    "a .safetensors, .pt, .bin or .ckpt file, a directory, or the name of a model in the local Hugging Face cache"
)


class Device(str, Enum):
    """Where the numerical work runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Backend(str, Enum):
    """What runs a scan."""

    auto = "auto"
    naive = "naive"
    cpu = "cpu"
    triton = "triton"
    torch = "torch"


BACKEND_HELP = (
    "What runs the scans: auto (the C kernel on the CPU, the Triton kernel on a GPU), naive (step by step, as "
    "defined), cpu, triton, or torch (plain PyTorch)."
)

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=f"Checkpoint: {CHECKPOINT}.", show_default=False)]

FamilyOption = Annotated[
    str | None,
    typer.Option(
        "--family",
        metavar="NAME",
        autocompletion=_complete.families,
        help="Read the tensors as this family's; by default every family looks (names: ssmtool --help).",
    ),
]

LayerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        "--layer",
        metavar="GLOB",
        help="Only layers whose name matches, e.g. 'layers.[0-3]'; may be repeated. Default: all.",
    ),
]

DeviceOption = Annotated[
    Device, typer.Option("--device", help="Where to compute; auto takes CUDA if there is a device.")
]

BackendOption = Annotated[Backend, typer.Option("--backend", help=BACKEND_HELP)]

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Folder with the files of a task that reads any: imdb, scifar, smnist.",
        show_default="$SSMTOOL_DATA",
    ),
]

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document instead of text (fields: docs/json.md).")
]


def quiet_option(what: str) -> typer.models.OptionInfo:
    """--quiet, saying what is printed nevertheless."""
    return typer.Option("--quiet", "-q", help=f"No progress bar; print {what}.")


def examples(*lines: str) -> str:
    """Epilog of a sub-command. \\b keeps the lines as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def checked_device(device: Device) -> str:
    """The device's name. Raises UsageError for CUDA where there is none."""
    if device is Device.cuda:
        from ssmtool.lti.factors import resolve_device

        resolve_device("cuda")
    return device.value
