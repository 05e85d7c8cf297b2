"""--offline: no connection to another machine, whoever in this process asks for one.

The program itself never makes any: models come from files and from the local Hugging Face cache. What could is code
beside it, transformers or a user's own --model-code; libraries that heed it are told, and every other connection that
goes through Python's sockets is refused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from ssmtool.errors import UsageError

VARIABLE = "SSMTOOL_OFFLINE"
"""Set to anything but 0, false, no or off, it is as good as the option."""

_SAID_TO_LIBRARIES = (
    VARIABLE,
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_HUB_DISABLE_TELEMETRY",
)
_NO = ("", "0", "false", "no", "off")
_HERE = ("localhost", "127.0.0.1", "::1", "")
_NAMES = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyname_ex", "socket.gethostbyaddr")
_TARGETS = ("socket.connect", "socket.sendto", "socket.sendmsg")


class _Guard:
    """An audit hook stays until the process ends; this one refuses while it is asked to."""

    installed = wanted = False
    before: Mapping[str, str | None] = {}

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.wanted or not event.startswith("socket."):
            return
        host: Any = None
        if event in _NAMES:
            host = arguments[0]
        elif event in _TARGETS and isinstance(arguments[1], tuple) and arguments[1]:  # a str is a local socket's path
            host = arguments[1][0]
        shown = host.decode("utf-8", "replace") if isinstance(host, bytes) else host
        if shown is not None and str(shown) not in _HERE:
            raise UsageError(
                f"a connection to {shown} was refused", remedy="Leave out --offline, or what wants the connection"
            )


_GUARD = _Guard()


def asked_by_environment() -> bool:
    """Whether VARIABLE says so."""
    return os.environ.get(VARIABLE, "").strip().lower() not in _NO


def go_offline() -> None:
    """From now on, every connection but to this machine is refused, and processes started later are told the same."""
    if not _GUARD.wanted:
        _GUARD.before = {name: os.environ.get(name) for name in _SAID_TO_LIBRARIES}
    os.environ.update(dict.fromkeys(_SAID_TO_LIBRARIES, "1"))
    _GUARD.wanted = True
    if not _GUARD.installed:
        sys.addaudithook(_GUARD)
        _GUARD.installed = True


def go_online() -> None:
    """Take `go_offline` back in this process, for one that runs several command lines."""
    _GUARD.wanted = False
    for name, value in _GUARD.before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
