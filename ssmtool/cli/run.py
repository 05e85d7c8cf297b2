"""From arguments to an exit code: every way a run can end, and the one line that says so."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence

import typer

from ssmtool.errors import SsmtoolError
from ssmtool.shown import one_line

INTERNAL = 2
INTERRUPTED = 130
NO_READER = 141
COMPLETION = "_SSMTOOL_COMPLETE"


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit code; never raises, but for what shell completion exits with."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show "σ" gets "?", not a traceback
            stream.reconfigure(errors="replace")
    try:
        with _plain_warnings():
            code = _invoke(list(args))
        sys.stdout.flush()
        return code
    except SsmtoolError as error:
        return _fail(error.line(), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _abandon_stdout()
        return NO_READER
    except OSError as error:
        if error.filename is None:  # a write to a stream, not to a file
            _abandon_stdout()
        return _fail(_internal(error), INTERNAL)
    except Exception as error:
        usage = getattr(error, "format_message", None)
        return _fail(_usage(error) if usage else _internal(error), INTERNAL)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as one line each, without the place in the source."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *rest, **names: f"ssmtool: warning: {one_line(str(message))}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _invoke(args: list[str]) -> int:
    from ssmtool.cli.app import command

    program = command()
    if COMPLETION in os.environ:
        program.main(args=args, prog_name="ssmtool", complete_var=COMPLETION)
    try:
        with program.make_context("ssmtool", args) as context:
            program.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    return 0


def _fail(line: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(f"ssmtool: error: {one_line(line)}", file=sys.stderr, flush=True)
    return code


def _usage(error: Exception) -> str:
    """What is wrong with the command line, in the parser's words, and where to read more."""
    message = str(error.format_message()).rstrip(".")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    return f"{message}. See {context.command_path} --help" if context else message


def _internal(error: Exception) -> str:
    """An error nobody foresaw."""
    if os.environ.get("SSMTOOL_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
        return f"internal error: {type(error).__name__}: {error}"
    return f"internal error: {type(error).__name__}: {error} (set SSMTOOL_TRACEBACK=1 for the traceback)"


def _abandon_stdout() -> None:
    """Let what is left in the buffer of standard output go nowhere: flushing it at exit would fail a second time."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
