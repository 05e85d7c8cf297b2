"""The program: its sub-commands and what `ssmtool --help` says."""

from __future__ import annotations

from typing import Annotated

import typer

from ssmtool import plugins
from ssmtool.cli import (
    _complete,
    _offline,
    bench,
    check,
    compress,
    config,
    diagnose,
    diff,
    evaluate,
    hsv,
    identify,
    inspect,
    plot,
    realize,
    report,
    speculate,
    train,
    validate,
)
from ssmtool.version import __version__

_COMMANDS = (
    inspect, hsv, diagnose, check, diff, compress, validate, report, plot, realize, identify, evaluate, train,
    speculate, bench, config,
)  # fmt: skip


def command():
    """The parser of the whole command line."""
    return typer.main.get_command(_app())


def _app() -> typer.Typer:
    # rich_markup_mode=None: help as plain text, without the time it takes to import rich.
    app = typer.Typer(
        name="ssmtool",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=_epilog(),
    )
    app.callback(invoke_without_command=True)(_program)
    for module in _COMMANDS:
        app.command(module.__name__.rpartition(".")[2], epilog=module.EXAMPLES)(module.command)
    return app


def _program(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=lambda asked: _version(asked), help="Print the version."),
    ] = False,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Refuse every network connection, also one that --model-code asks for; ssmtool itself makes none. "
            f"The same: {_offline.VARIABLE}=1.",
        ),
    ] = False,
) -> None:
    """Hankel singular values, balanced truncation and smaller checkpoints for trained state-space models.

    Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 a validation or check that
    failed, 2 a wrong command line, an input that cannot be used, or an internal error.
    """
    if offline or _offline.asked_by_environment():
        _offline.go_offline()
        context.call_on_close(_offline.go_online)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"ssmtool {__version__}")
        raise typer.Exit(0)


def _epilog() -> str:
    """What can be read and what can be done, by the names of the files that do it."""
    return (
        f"Families: {', '.join(plugins.names(_complete.FAMILIES))}.\n\n"
        f"Methods: {', '.join(plugins.names(_complete.METHODS))}.\n\n"
        "\b\nExamples:\n"
        "  ssmtool inspect model.safetensors\n"
        "  ssmtool hsv model.safetensors --plot hsv.svg\n"
        "  ssmtool compress model.safetensors --error 1e-3\n"
        "  ssmtool validate model.safetensors model-error0.001.safetensors"
    )
