"""The command line on damaged checkpoints: what people see of a refusal is one line and exit code 2."""

from __future__ import annotations

import contextlib
import io
from functools import cache
from pathlib import Path

from tests.fuzz.damage import bytes_damaged, header_damaged, json_damaged, one_of
from tests.fuzz.made import Files, layers, models
from tests.fuzz.targets import Target


@cache
def _checkpoints() -> list[Files]:
    """A few families, small ones, so that a command takes little."""
    wanted = (b"s4_layers.0.kernel.C", b"lambda_log", b"nu_log")
    found = [files for files in layers() if any(word in files["model.safetensors"] for word in wanted)]
    return found[:4]


def _command(*args: str) -> str:
    """What a command prints; its refusal where it makes one. Anything but those two is an error."""
    from ssmtool.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*args])
    said = err.getvalue()
    assert code in (0, 1, 2), (code, said)
    assert "internal error" not in said, said
    assert (code == 2) == said.startswith("ssmtool: error: "), (code, said)
    assert code != 2 or (said.count("\n") == 1 and not out.getvalue()), said
    assert (out.getvalue() + said).replace("\n", "").isprintable(), "what a file says reaches the terminal unescaped"
    return out.getvalue()


def run_inspect(folder: Path) -> None:
    """The command that looks, as text and as JSON."""
    _command("inspect", str(folder))
    _command("inspect", str(folder), "--json")


def run_hsv(folder: Path) -> None:
    """The command that computes."""
    _command("hsv", str(folder), "--no-cache", "--device", "cpu")


def run_compress(folder: Path) -> None:
    """The command that writes, short of writing."""
    _command("compress", str(folder), "--rank", "2", "--dry-run", "--no-cache", "--device", "cpu")


_DAMAGE = {".safetensors": one_of(header_damaged, bytes_damaged), "config.json": one_of(json_damaged, bytes_damaged)}

COMMANDS: dict[str, Target] = {
    "inspect": Target(run_inspect, lambda: models()[::8], _DAMAGE, 30),
    "hsv": Target(run_hsv, _checkpoints, _DAMAGE, 20),
    "compress": Target(run_compress, _checkpoints, _DAMAGE, 12),
}
