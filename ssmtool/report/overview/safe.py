"""Text from a checkpoint made fit for a page: nothing invisible, nothing that ends a script, nothing that is markup."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def printable(text: str) -> str:
    """The text with characters that are not seen, or turn around what follows, spelled out: \\u202e.

    HTML knows no way to write most of them; and a name must not look like another one.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelled(c) if unicodedata.category(c) in _HIDDEN else c for c in text)


def _spelled(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def script_json(value: Any) -> str:
    """JSON that may stand inside <script>: neither </script> nor <!-- nor a line separator can be in it.

    Numbers that are not finite become null.
    """
    text = json.dumps(_finite(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def markdown(text: str) -> str:
    """The text inside a Markdown paragraph or table cell: no markup, no HTML, no cell or line ends."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\`*_[]|#!~$":
        text = text.replace(character, "\\" + character)
    return text.replace("://", "&#58;//").replace("@", "&#64;")  # no links nobody wrote
