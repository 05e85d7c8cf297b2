"""Arguments and options that several sub-commands share, so that they read and mean the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssmtool.cli import _complete
from ssmtool.cli._offline import asked_by_environment

if TYPE_CHECKING:
    from ssmtool.cache import Cache
    from ssmtool.pipeline.engines import Engine

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


CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Folder where results of layers are kept by content and found again; it may be shared and deleted.",
        show_default="$SSMTOOL_CACHE or ~/.cache/ssmtool",
    ),
]

NoCacheOption = Annotated[bool, typer.Option("--no-cache", help="Compute everything, keep nothing.")]

JobsOption = Annotated[
    int,
    typer.Option("--jobs", "-j", metavar="N", min=1, help="Layers worked on at a time, in a process each."),
]


class EngineName(str, Enum):
    """What works on layers."""

    local = "local"
    ray = "ray"


EngineOption = Annotated[
    EngineName, typer.Option("--engine", help="Where layers are worked on: this machine, or a Ray cluster.")
]

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDR",
        help="Of the Ray cluster, such as 10.0.0.1:6379 or auto.",
        show_default="$RAY_ADDRESS, or a cluster on this machine for this run",
    ),
]


def quiet_option(what: str) -> typer.models.OptionInfo:
    """--quiet, saying what is printed nevertheless."""
    return typer.Option("--quiet", "-q", help=f"No progress bar; print {what}.")


def examples(*lines: str) -> str:
    """Epilog of a sub-command. \\b keeps the lines as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def checked_device(device: Device, engine: EngineName = EngineName.local) -> str:
    """The device's name. Raises UsageError for CUDA where there is none; a cluster is asked when it is there."""
    if device is Device.cuda and engine is EngineName.local:
        from ssmtool.lti.factors import resolve_device

        resolve_device("cuda")
    return device.value


def chosen_cache(folder: Path | None, none: bool) -> Cache:
    """Where results are kept. Raises UsageError: both options."""
    from ssmtool.cache import Cache
    from ssmtool.errors import UsageError

    if none and folder is not None:
        raise UsageError("--cache and --no-cache contradict each other")
    if none:
        return Cache(None)
    return Cache.default() if folder is None else Cache(folder)


@contextmanager
def chosen_engine(name: EngineName, address: str | None, jobs: int) -> Iterator[Engine]:
    """Where layers are worked on. Raises UsageError: options of the other engine."""
    from ssmtool.errors import UsageError
    from ssmtool.pipeline.engines import local

    if name is EngineName.local:
        if address is not None:
            raise UsageError("--address is of a Ray cluster", remedy="Add --engine ray")
        yield local(jobs)
        return
    if jobs != 1:
        raise UsageError("--jobs is for this machine, and --engine ray uses what the cluster has")
    if asked_by_environment():
        raise UsageError("--engine ray speaks to a cluster over the network, and --offline forbids that")
    from ssmtool.pipeline.engines.ray_cluster import RayCluster

    with closing(RayCluster(address)) as cluster:
        yield cluster


def not_for_selective(engine: EngineName, jobs: int) -> None:
    """Raises UsageError for options that selective layers, which are measured in a running model, cannot follow."""
    from ssmtool.errors import UsageError

    for option, given in (("--engine ray", engine is not EngineName.local), ("--jobs", jobs != 1)):
        if given:
            raise UsageError(
                f"{option} is for linear time-invariant layers",
                remedy="Selective layers are measured on tokens, all in one run of the model",
            )
