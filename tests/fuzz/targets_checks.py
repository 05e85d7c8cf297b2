"""Readers of what `ssmtool check` is told and keeps: policies, baselines, and entries of the cache."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import struct
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.damage import Edit, bytes_damaged, json_damaged, one_of
from tests.fuzz.made import Files, layers
from tests.fuzz.targets import Target

POLICY = """
[check]
defaults = false
layers = ["s4_layers.*"]
skipped = "warn"

[check.rules.order]
energy = 0.99
max = 40
severity = "warn"

[check.rules.reduced_error]
rank = 32
max = "2 %"
layers = ["*.0"]
"""

TOML = (
    b"[check]\n", b"[check.rules.order]\n", b"[[check.rules.order]]\n", b"max = nan\n", b"max = inf\n",
    b"max = 1e400\n", b"max = -1\n",
    b"max = [1, 2]\n", b'max = "5 %"\n', b'max = ""\n', b"max = 2024-01-01\n", b"layers = 3\n", b'layers = "["\n',
    b"a.b.c = 1\n", b'"" = 1\n', b"energy = true\n", b"x = " + b"[" * 3000, b"x = {" * 900, b"'''", b'"""', b"\\u0000",
    b"\x1b[2J", b"\xff", b"max = " + b"9" * 5000 + b"\n", b'severity = "fatal"\n', b"baseline = 7\n",
    b'tokens = "\\u0000"\n',
    b"rules = 1\n", b"[tool.ssmtool.check]\n",
)  # fmt: skip


@cache
def _policies() -> list[Files]:
    shared = POLICY.replace("[check", "[tool.ssmtool.check").replace("[[check", "[[tool.ssmtool.check")
    return [{"ssmtool.toml": POLICY.encode()}, {"pyproject.toml": b'[project]\nname = "x"\n' + shared.encode()}]


def read_policies(folder: Path) -> None:
    """A policy, and all that is shown of it."""
    from ssmtool.checks.policy_file import read_policy
    from ssmtool.report.text.config import config_text

    (path,) = folder.glob("*.toml")
    policy = read_policy(path)
    assert config_text(policy).replace("\n", "").isprintable()


def _model() -> Files:
    return next(files for files in layers() if b"s4_layers.0.kernel.C" in files["model.safetensors"])


def _printed(*args: str) -> bytes:
    from ssmtool.__main__ import main

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert main(list(args)) in (0, 1)
    return text.getvalue().encode()


@cache
def _documents() -> list[Files]:
    """A model, and what several commands say of it as JSON."""
    with tempfile.TemporaryDirectory() as name:
        model = Path(name, "model.safetensors")
        model.write_bytes(_model()["model.safetensors"])
        commands = (
            ["hsv", "--no-cache"],
            ["inspect"],
            ["compress", "--rank", "2", "--dry-run"],
            ["check", "--no-cache"],
        )
        texts = [_printed(words[0], str(model), *words[1:], "--json") for words in commands]
    return [{"model.safetensors": _model()["model.safetensors"], "baseline.json": text} for text in texts]


@cache
def _limits() -> Any:
    from ssmtool.checks.policy_file import read_policy

    return read_policy(None)


def read_documents(folder: Path) -> None:
    """A baseline, what differs from it, and a check against it."""
    from ssmtool.cache import Cache
    from ssmtool.checks.baseline import read_baseline
    from ssmtool.checks.check import check
    from ssmtool.checks.diff import diff, profiles_of_document
    from ssmtool.pipeline.model import load

    found = read_baseline(folder / "baseline.json")
    for recorded in found.models:
        diff(profiles_of_document(recorded), profiles_of_document(recorded))
    check([load(folder / "model.safetensors")], _limits(), cache=Cache(None), baseline=found, device="cpu")


@cache
def _entries() -> list[Files]:
    """A model, and the cache that its Hankel singular values left."""
    from ssmtool.cache import Cache
    from ssmtool.pipeline.model import load

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.safetensors").write_bytes(_model()["model.safetensors"])
        load(folder / "model.safetensors").hsv(device="cpu", cache=Cache(folder / "cache"))
        files = [path for path in folder.rglob("*") if path.is_file()]
        return [{path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files)}]


@cache
def _truth() -> list[np.ndarray]:
    from ssmtool.pipeline.model import load

    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "model.safetensors").write_bytes(_model()["model.safetensors"])
        return [row.spectrum.sigma for row in load(Path(name, "model.safetensors")).hsv(device="cpu")]


def read_entries(folder: Path) -> None:
    """Values from a damaged cache: those of an empty one, unless somebody forged a checksum; never an error."""
    from ssmtool.cache import Cache
    from ssmtool.pipeline.model import load

    class ReadOnly(Cache):
        def put(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
            """Nothing is kept: the watch would take it for a side effect."""

    truth, forged = _truth(), any(_forged(path) for path in (folder / "cache").rglob("*") if path.is_file())
    found = load(folder / "model.safetensors").hsv(device="cpu", cache=ReadOnly(folder / "cache"))
    assert forged or all(np.array_equal(row.spectrum.sigma, x) for row, x in zip(found, truth, strict=True))


def _forged(path: Path) -> bool:
    """Whether the entry's checksum holds and its content is not one that was made."""
    content = path.read_bytes()
    made = _entries()[0]
    return content not in made.values() and _summed(content) == content


def _summed(content: bytes) -> bytes:
    """An entry with the checksum of what it holds."""
    from ssmtool.cache import MAGIC

    start = len(MAGIC) + 32
    return content[: len(MAGIC)] + hashlib.sha256(content[start:]).digest() + content[start:]


def entry_damaged(content: bytes, changes: Sequence[Edit]) -> bytes:
    """What an entry lists of itself changed, its checksum put right."""
    from ssmtool.cache import MAGIC

    start = len(MAGIC) + 32
    (length,) = struct.unpack_from("<Q", content, start)
    header = content[start + 8 : start + 8 + length]
    text = json_damaged(header, changes) if changes[0][1] % 2 else json.dumps(json.loads(header)).encode()
    rest = content[start + 8 + length :]
    if changes[0][1] % 4 > 1:
        rest = bytes_damaged(rest, changes)
    return _summed(content[:start] + struct.pack("<Q", len(text)) + text + rest)


CHECKS: dict[str, Target] = {
    "policy": Target(
        read_policies,
        _policies,
        {".toml": lambda content, changes: bytes_damaged(content, changes, TOML)},
        60,
    ),
    "baseline": Target(read_documents, _documents, {".json": one_of(json_damaged, bytes_damaged, json_damaged)}, 30),
    "cache": Target(read_entries, _entries, {".safetensors": None, "": one_of(bytes_damaged, entry_damaged)}, 30),
}
