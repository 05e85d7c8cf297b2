"""--format of check: what is printed, and what is written into which file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmtool.cli._output import checked_file, emit, save
from ssmtool.errors import OutputError, UsageError

if TYPE_CHECKING:
    from ssmtool.checks.findings import Check

SUFFIXES = {
    "text": (".txt", ".log"),
    "json": (".json",),
    "junit": (".xml",),
    "github": (".txt", ".log"),
    "markdown": (".md",),
}
SUMMARY = "GITHUB_STEP_SUMMARY"
_TOGETHER = ("text", "github")  # lines that may be mixed on standard output


@dataclass(frozen=True)
class Format:
    """One output. `file`: None for standard output."""

    name: str
    file: Path | None


def parse_formats(asked: list[str] | None, json: bool) -> tuple[Format, ...]:
    """What --format and --json ask for; looked at before the work starts.

    Raises:
        UsageError: no such format, a file that is not of its kind, two documents on standard output.
    """
    found = []
    for text in [*(asked or ()), *(["json"] if json else ())]:
        name, colon, file = text.partition(":")
        if name not in SUFFIXES:
            raise UsageError(f"there is no format {name!r}", remedy=f"Formats: {', '.join(SUFFIXES)}")
        if colon and not file:
            raise UsageError(f"--format {text} names no file", remedy=f"Write {name}:FILE, or {name} alone")
        path = checked_file(Path(file), "--format", SUFFIXES[name]) if colon else None
        found.append(Format(name, path))
    if not found:
        return (Format("text", None),)
    printed = [form.name for form in found if form.file is None]
    if len(printed) > 1 and not set(printed) <= set(_TOGETHER):
        raise UsageError(
            f"{' and '.join(printed)} cannot both go to standard output", remedy=f"Write {printed[-1]}:FILE"
        )
    files = [form.file for form in found if form.file is not None]
    if len(set(files)) < len(files):
        raise UsageError("two formats go to the same file")
    return tuple(dict.fromkeys(found))


def put_out(check: Check, formats: tuple[Format, ...], strict: bool, options: dict[str, Any], quiet: bool) -> None:
    """Write the files, then print, then append to the summary of a GitHub step.

    Raises:
        OutputError: a file that cannot be written.
    """
    for form in formats:
        if form.file is not None:
            save(form.file, rendered(check, form.name, strict, options, terminal=False))
    for form in formats:
        if form.file is None and not (quiet and form.name == "text"):
            emit(rendered(check, form.name, strict, options, terminal=None))
    summary = os.environ.get(SUMMARY)
    if summary and any(form.name == "github" for form in formats):
        from ssmtool.report.check_markdown import check_markdown

        try:
            with open(summary, "a", encoding="utf-8") as file:
                file.write(check_markdown(check) + "\n")
        except OSError as error:
            raise OutputError(f"cannot be written: {error.strerror or error}", where=f"{SUMMARY} {summary}") from error


def rendered(check: Check, name: str, strict: bool, options: dict[str, Any], terminal: bool | None) -> str:
    """The check in one format; only what is asked for is imported."""
    if name == "json":
        from ssmtool.report.check_document import check_document
        from ssmtool.report.json_text import json_text

        return json_text(check_document(check, strict, options)) + "\n"
    if name == "junit":
        from ssmtool.report.check_junit import check_junit

        return check_junit(check, strict)
    if name == "github":
        from ssmtool.report.check_github import check_github

        return check_github(check)
    if name == "markdown":
        from ssmtool.report.check_markdown import check_markdown

        return check_markdown(check)
    from ssmtool.report.text.check import check_text

    return check_text(check, terminal)
