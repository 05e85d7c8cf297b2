"""Files to be written, as streams that can be produced twice: once to write them, once to check what was written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from ssmtool.checkpoint.files import reading, sync, write_file, writing
from ssmtool.errors import OutputError


@dataclass(frozen=True)
class Output:
    """One file of the result.

    Attributes:
        name: relative to the result directory, with ``/``.
        pieces: produces the content from its sources, the same every time, in bounded pieces.
        check: more to verify of the written file; raises SsmtoolError.
    """

    name: str
    pieces: Callable[[], Iterator[bytes]]
    check: Callable[[Path], None] = lambda path: None


def write_outputs(outputs: list[Output], folder: Path, *, workers: int) -> None:
    """Write every output below `folder`, flush it to disk and check it against its sources.

    What was written is compared byte for byte with the sources read a second time. That is stronger than any digest
    and cheaper: comparing runs at about 8 GB/s per core, zlib.crc32 at 1.4 and blake2b at 0.3 (2.5 GHz Xeon), and the
    sources are still in the page cache unless they exceed memory. Flushing waits for the disk, so it runs beside the
    comparison and beside the next file.

    Args:
        outputs: names must differ.
        folder: exists and is empty.
        workers: threads; reading, writing and flushing release the interpreter lock.

    Raises:
        OutputError: disk full, no permission, or content that differs after writing.
        CheckpointError: a source that cannot be read.
    """
    for output in outputs:
        with writing(folder / output.name):
            (folder / output.name).parent.mkdir(parents=True, exist_ok=True)
    stop, pool, flushers = Event(), ThreadPoolExecutor(workers), ThreadPoolExecutor(workers)
    try:
        jobs = [pool.submit(_finish, output, folder / output.name, flushers, stop) for output in outputs]
        done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
        for job in done:
            job.result()
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        flushers.shutdown(cancel_futures=True)
    for parent, _, _ in os.walk(folder):
        sync(Path(parent))


def _finish(output: Output, path: Path, flushers: ThreadPoolExecutor, stop: Event) -> None:
    """Write, flush and check one output, until `stop` is set."""
    write_file(path, _until(stop, output.pieces()))
    flushed = flushers.submit(sync, path)
    _compare(output, path, stop)
    flushed.result()


def _until(stop: Event, pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if stop.is_set():
            raise CancelledError
        yield piece


def _compare(output: Output, path: Path, stop: Event) -> None:
    with reading(path):
        written = open(path, "rb", buffering=0)  # noqa: SIM115 - the with-block below must not wrap the sources' errors
    with written:
        for piece in _until(stop, output.pieces()):
            with reading(path):
                same = written.read(len(piece)) == piece
            if not same:
                raise _differs(path)
        if written.read(1):
            raise _differs(path)
    output.check(path)


def _differs(path: Path) -> OutputError:
    return OutputError(
        "differs from what should have been written",
        where=str(path),
        remedy="The input changed meanwhile, or the disk or memory is faulty: run again, or write elsewhere",
    )
