"""Where layers are worked on: in this process, in processes beside it, or on a Ray cluster. One file each."""

from __future__ import annotations

from ssmtool.errors import UsageError
from ssmtool.pipeline.engines._contract import Engine
from ssmtool.pipeline.engines.here import Here


def local(jobs: int = 1) -> Engine:
    """This machine, with so many processes. Raises UsageError."""
    if jobs < 1:
        raise UsageError(f"--jobs {jobs} is not a positive number of processes")
    if jobs == 1:
        return Here()
    from ssmtool.pipeline.engines.processes import Processes

    return Processes(jobs)
