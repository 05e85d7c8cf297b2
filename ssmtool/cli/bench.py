"""ssmtool bench: the scans themselves, on synthetic inputs."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from ssmtool.cli._options import (
    BACKEND_HELP,
    Backend,
    Device,
    DeviceOption,
    JsonOption,
    checked_device,
    examples,
    quiet_option,
)
from ssmtool.cli._output import emit
from ssmtool.cli._progress import Bar

EXAMPLES = examples(
    "ssmtool bench --list",
    "ssmtool bench --op selective_scan",
    "ssmtool bench --op 'ssd*' --shape L=1024,N=64 --sweep 64,32,16",
    "ssmtool bench --op diagonal_scan --backend cpu --backend naive --json",
)


class Dtype(str, Enum):
    """Of the inputs."""

    float32 = "float32"
    float64 = "float64"
    bfloat16 = "bfloat16"
    float16 = "float16"


def command(
    op: Annotated[
        list[str] | None,
        typer.Option(
            "--op", metavar="NAME", help="Operation or glob; may be repeated. Default: all.", show_default=False
        ),
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="Print the operations and their sizes, and do nothing.")
    ] = False,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            metavar="B=4,L=1024",
            help="Sizes instead of the operation's own; may be repeated.",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        list[Backend] | None,
        typer.Option(
            "--backend",
            help=BACKEND_HELP + " May be repeated. Default: all that run here, and peers.",
            show_default=False,
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            "--sweep",
            metavar="N,N,…",
            help="State sizes to compare; 0 for none. Default: the operation's own, halved three times.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        Dtype, typer.Option("--dtype", help="Of the inputs; complex ones as its counterpart.")
    ] = Dtype.float32,
    forward_only: Annotated[bool, typer.Option("--forward-only", help="Neither time nor check gradients.")] = False,
    device: DeviceOption = Device.auto,
    json: JsonOption = False,
    quiet: Annotated[bool, quiet_option("the tables alone")] = False,
) -> None:
    """Time the scans and check them against float64.

    Random contractive inputs of the given sizes; errors are relative to the definition in float64. Times are the least
    of several runs; on a GPU also as a share of the least time its memory, arithmetic and tensor cores allow.
    """
    where = checked_device(device)
    from ssmtool.pipeline.bench import bench

    if listing:
        from ssmtool.lti.factors import resolve_device
        from ssmtool.report.text.bench import listing_text

        emit(listing_text(resolve_device(where).type))
        return
    sizes, states = parse_shape(shape), parse_sweep(sweep)
    with Bar(quiet) as bar:
        result = bench(
            chosen=op,
            shape=sizes,
            backends=None if backend is None else [entry.value for entry in backend],
            sweep=states,
            dtype=dtype.value,
            backward=not forward_only,
            device=where,
            progress=lambda name, done, total: bar.step(name, done, total, "operations"),
        )
    if json:
        from ssmtool.report.bench_document import bench_document
        from ssmtool.report.json_text import json_text

        options = {"op": op, "shape": sizes, "sweep": states, "dtype": dtype.value, "device": device.value}
        options["backend"] = None if backend is None else [entry.value for entry in backend]
        emit(json_text(bench_document(result, {**options, "forward_only": forward_only})))
    else:
        from ssmtool.report.text.bench import bench_text

        emit(bench_text(result))


def parse_shape(given: list[str] | None) -> dict[str, int]:
    """ "B=4,L=1024" -> sizes. Raises UsageError: something else."""
    from ssmtool.errors import UsageError

    sizes: dict[str, int] = {}
    for part in (part for entry in given or [] for part in entry.split(",")):
        letter, _, size = part.strip().partition("=")
        if not letter or not size.isdecimal():
            raise UsageError(f"--shape {part.strip()!r} is no size", remedy="Write LETTER=NUMBER, such as B=4,L=1024")
        sizes[letter] = int(size)
    return sizes


def parse_sweep(given: str | None) -> list[int] | None:
    """ "64,32,16" -> sizes, "0" -> none. Raises UsageError: something else."""
    from ssmtool.errors import UsageError

    if given is None:
        return None
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--sweep {given!r} is no list of sizes", remedy="Write numbers, such as 64,32,16")
    return [int(part) for part in parts if int(part)]
