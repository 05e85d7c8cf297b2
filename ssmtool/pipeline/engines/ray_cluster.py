"""Layers as tasks of a Ray cluster: one that is there, or one started on this machine for the run.

Every node reads the checkpoint where it lies, under the same path. Ray runs a task again whose worker died; what a task
returns depends on nothing but its layer, so it does not matter how often it ran, or where.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmtool.errors import EngineError, UsageError
from ssmtool.pipeline.engines._contract import Results, Task, perform
from ssmtool.pipeline.engines._worker import WorkerTraceback, portable
from ssmtool.sources import version_of

if TYPE_CHECKING:
    from ssmtool.pipeline.model import LayerProgress, Model

RETRIES = 3
_PATIENCE = 5.0  # seconds for a cluster to answer
_AHEAD = 2  # tasks given per core or GPU: the next one waits where it will run


class RayCluster:
    """An `Engine` on a Ray cluster. What it started, it ends when it is closed.

    Args:
        address: of the cluster, as `ray.init` takes it; None takes $RAY_ADDRESS, or starts a cluster on this machine.

    Raises:
        UsageError: Ray is not installed.
        EngineError: there is no cluster at this address.
    """

    def __init__(self, address: str | None = None) -> None:
        self.ray = _ray()
        self._mine = not self.ray.is_initialized()
        if not self._mine:
            return
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        if address is None and not os.environ.get("RAY_ADDRESS"):
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
            quiet |= {"include_dashboard": False, "address": "local"}
        else:
            quiet["address"] = address
        try:
            if address is not None:
                _knock(address)
            self.ray.init(**quiet)
        except Exception as error:
            raise EngineError(
                f"no Ray cluster can be used ({' '.join(str(error).split())[:200]})",
                where=f"--address {address}" if address else "",
                remedy="Start one with: ray start --head, and give the address it prints",
            ) from None

    def device(self, asked: str) -> str:
        """Where tasks compute: on GPUs if the cluster has any, unless the CPU is asked for. Raises UsageError."""
        if asked == "cpu":
            return "cpu"
        if self.ray.cluster_resources().get("GPU", 0) >= 1:
            return "cuda"
        if asked == "auto":
            return "cpu"
        raise UsageError("the cluster has no GPU", where=f"device {asked}", remedy="Use cpu or auto")

    def run(self, model: Model, tasks: Iterable[tuple[int, Task]], progress: LayerProgress | None) -> Results:
        run = _Run(self.ray, model)
        try:
            for number, task, arrays in run.results(iter(tasks)):
                if progress is not None:
                    progress(task.layer, task.layer.systems, task.layer.systems)
                yield number, arrays
        finally:
            run.cancel(run.going)

    def close(self) -> None:
        """End a cluster that was started here; leave any other."""
        if self._mine:
            self.ray.shutdown()


class _Run:
    """Tasks that were given to the cluster."""

    def __init__(self, ray: Any, model: Model) -> None:
        self.ray, self.path = ray, str(model.checkpoint.path.absolute())
        self.going: dict[Any, tuple[int, Task]] = {}
        self.failed: tuple[int, BaseException] | None = None
        self._version = version_of("ssmtool", "ssmtool_kernels")
        resources = ray.cluster_resources()
        self._room = {kind: _AHEAD * max(1, int(resources.get(kind, 0))) for kind in ("CPU", "GPU")}

    def results(self, tasks: Iterator[tuple[int, Task]]) -> Iterator[tuple[int, Task, Any]]:
        more = True
        while True:
            while more and self.failed is None and len(self.going) < self._width():
                more = self._give(tasks)
            if self.failed is not None:  # what comes later in order cannot change which error is the first
                self.cancel([one for one, (number, _) in self.going.items() if number > self.failed[0]])
            if not self.going:
                break
            (one,), _ = self.ray.wait(list(self.going), num_returns=1)
            number, task = self.going.pop(one)
            kind, content, said = self._outcome(one, task)
            for text, category in said:
                warnings.warn(text, category, stacklevel=2)
            if kind == "done":
                yield number, task, content
            else:
                self._fail(number, content)
        if self.failed is not None:
            raise self.failed[1]

    def _width(self) -> int:
        gpus = any(_on_gpu(task) for _, task in self.going.values())
        return self._room["GPU" if gpus else "CPU"]

    def _give(self, tasks: Iterator[tuple[int, Task]]) -> bool:
        try:
            number, task = next(tasks)
        except StopIteration:
            return False
        except Exception as error:  # of a layer after all that are being worked on
            self._fail(sys.maxsize, error)
            return False
        remote = self.ray.remote(max_retries=RETRIES, num_cpus=1, num_gpus=1 if _on_gpu(task) else 0)(on_node)
        self.going[remote.remote(self.path, task, self._version)] = (number, task)
        return True

    def _outcome(self, one: Any, task: Task) -> tuple[str, Any, list[tuple[str, type[Warning]]]]:
        try:
            kind, content, said = self.ray.get(one)
        except self.ray.exceptions.RayError as error:
            line = str(error).strip().splitlines()[0][:200]
            lost = EngineError(
                f"the cluster could not work on it in {RETRIES + 1} attempts ({type(error).__name__}: {line})",
                where=task.layer.name,
                remedy="Look at the cluster's logs; memory may have run out",
            )
            return "failed", lost, []
        if kind == "failed":
            content, content.__cause__ = content[0], WorkerTraceback(content[1])
        return kind, content, said

    def _fail(self, number: int, error: BaseException) -> None:
        if self.failed is None or number < self.failed[0]:
            self.failed = (number, error)

    def cancel(self, ones: Iterable[Any]) -> None:
        """Give up tasks, running or not."""
        for one in list(ones):
            self.going.pop(one, None)
            with suppress(Exception):
                self.ray.cancel(one, force=True)


def on_node(path: str, task: Task, version: str) -> tuple[str, Any, list[tuple[str, type[Warning]]]]:
    """What a node does: ("done", arrays, warnings) or ("failed", (error, traceback), warnings)."""
    from ssmtool.checkpoint import open_checkpoint
    from ssmtool.lti import cores
    from ssmtool.pipeline.model import Model

    cores.limit(1)
    with warnings.catch_warnings(record=True) as caught:
        try:
            if version_of("ssmtool", "ssmtool_kernels") != version:
                raise EngineError(
                    "a node has another version of ssmtool, NumPy, SciPy or PyTorch than this machine",
                    where=platform.node(),
                    remedy="Install the same on every node: results would depend on where a layer is worked on",
                )
            kind, content = "done", perform(Model(open_checkpoint(Path(path)), (task.layer,)), task)
        except BaseException as error:
            kind, content = "failed", (portable(error), traceback.format_exc())
    return kind, content, [(str(one.message), one.category) for one in caught]


def _on_gpu(task: Task) -> bool:
    return getattr(task.work, "device", "cpu") != "cpu"


def _knock(address: str) -> None:
    """Raises OSError if nothing listens there: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


def _ray() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.exceptions  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageError(
            "--engine ray needs Ray, which is not installed", remedy="Install it: pip install 'ssmtool[ray]'"
        ) from None
    return ray
