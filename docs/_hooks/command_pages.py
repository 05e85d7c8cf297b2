"""The reference of the command line, as Markdown, from the parser itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

WIDTH = 96  # of the help texts, in characters


def page() -> str:
    """One page: what `ssmtool --help` prints, and then what every sub-command's `--help` prints."""
    from ssmtool.cli.app import command

    program = command()
    parts = [
        "# Commands\n",
        "What `ssmtool --help` and the `--help` of every sub-command print, taken from the parser.\n",
    ]
    for name, found, parent in commands(program, "ssmtool", None):
        parts.append(f"## {name}\n\n```text\n{help_text(found, name, parent)}\n```\n")
    return "\n".join(parts)


def commands(found: Any, name: str, parent: Any) -> Iterator[tuple[str, Any, Any]]:
    """(full name, command, context of the group it belongs to), a group before its members."""
    yield name, found, parent
    members = getattr(found, "commands", {})
    context = _context(found, name, parent) if members else None
    for short, member in members.items():
        if not member.hidden:
            yield from commands(member, f"{name} {short}", context)


def help_text(found: Any, name: str, parent: Any) -> str:
    return found.get_help(_context(found, name, parent)).rstrip()


def _context(found: Any, name: str, parent: Any) -> Any:
    own = name.rpartition(" ")[2]
    context = found.context_class(found, parent=parent, info_name=own, terminal_width=WIDTH, max_content_width=WIDTH)
    context.help_option_names = ["-h", "--help"]
    return context
