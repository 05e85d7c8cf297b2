"""A report as a file: complete, or the one before stays."""

from __future__ import annotations

from pathlib import Path

from ssmtool.checkpoint.replacing import replacing
from ssmtool.errors import UsageError
from ssmtool.report.overview.view import View

SUFFIXES = (".html", ".md", ".pdf")


def save_report(view: View, path: str | Path) -> int:
    """Write a report in the format its suffix names, and return its size in bytes.

    Raises:
        UsageError: another suffix.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".html":
        from ssmtool.report.overview.html import html

        content = html(view).encode()
    elif suffix == ".md":
        from ssmtool.report.overview.markdown import markdown_text

        content = markdown_text(view).encode()
    elif suffix == ".pdf":
        from ssmtool.report.overview.pdf import pdf

        content = pdf(view)
    else:
        raise UsageError(f"{path} does not end in {' or '.join(SUFFIXES)}", remedy="The suffix chooses the format")
    replace_file(path, content)
    return len(content)


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` where `path` is, in one step: written beside it, made durable, renamed.

    The file has the permissions the user's umask gives to new files. Through a symbolic link its target is replaced.

    Raises:
        OutputError: it cannot be written; nothing is left behind then.
    """
    with replacing(path) as file:
        file.write(content)
