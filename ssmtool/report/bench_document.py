"""Benchmarks of the scans as a JSON document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ssmtool.report.schema import SCHEMA_VERSION, Tool, _Strict
from ssmtool.version import __version__

if TYPE_CHECKING:
    from ssmtool.pipeline.bench import Bench, OperationBench
    from ssmtool_kernels.measure import Timing


class BenchTiming(_Strict):
    name: str = Field(description="a backend, or a peer")
    peer: bool
    forward_seconds: float
    backward_seconds: float | None
    error: float = Field(description="relative to float64, L2")
    largest_error: float = Field(description="largest difference over the largest number")
    gradient_error: float | None = Field(description="L2, on at most 256 steps")
    floor_share: float | None = Field(description="of the least time the GPU allows; null on other devices")


class BenchSweep(_Strict):
    letter: str
    sizes: list[int]
    forward_seconds: dict[str, list[float]]


class BenchOperation(_Strict):
    operation: str
    shape: dict[str, int]
    timings: list[BenchTiming]
    sweep: BenchSweep | None
    absent: dict[str, str] = Field(description="what did not run -> why")


class BenchDocument(_Strict):
    schema_version: int = SCHEMA_VERSION
    tool: Tool
    command: str
    options: dict[str, Any]
    device: str
    threads: int
    dtype: str
    operations: list[BenchOperation]


def bench_document(result: Bench, options: Mapping[str, Any]) -> BenchDocument:
    """What `ssmtool bench` measured."""
    return BenchDocument(
        tool=Tool(version=__version__),
        command="bench",
        options=dict(options),
        device=result.device,
        threads=result.threads,
        dtype=result.dtype,
        operations=[_operation(entry) for entry in result.operations],
    )


def _operation(entry: OperationBench) -> BenchOperation:
    sweep = entry.sweep
    return BenchOperation(
        operation=entry.operation,
        shape=dict(entry.shape),
        timings=[_timing(row) for row in entry.timings],
        sweep=None
        if sweep is None
        else BenchSweep(
            letter=sweep.letter,
            sizes=list(sweep.sizes),
            forward_seconds={name: list(times) for name, times in sweep.seconds.items()},
        ),
        absent=dict(entry.absent),
    )


def _timing(row: Timing) -> BenchTiming:
    return BenchTiming(
        name=row.name,
        peer=row.peer,
        forward_seconds=row.forward,
        backward_seconds=row.backward,
        error=row.errors.l2 if math.isfinite(row.errors.l2) else math.inf,
        largest_error=row.errors.largest,
        gradient_error=None if row.gradients is None else row.gradients.l2,
        floor_share=row.floor,
    )
