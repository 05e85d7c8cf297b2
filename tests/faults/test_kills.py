"""Commands killed with SIGKILL at random moments: what they write is absent or complete, and they can be run again.

FAULT_KILLS (default 15) are shared out among the commands; `make faults` makes 200, with other moments each time.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from tests.faults.commands import COMMANDS, Command, verify
from tests.faults.runs import Server, files, kill_at_random

KILLS = int(os.environ.get("FAULT_KILLS", "15"))
SEED = int(os.environ.get("FAULT_SEED", "1"))
RECORD = os.environ.get("FAULT_RECORD", "")
NAMES = list(COMMANDS)
SHARE = {name: KILLS // len(NAMES) + (place < KILLS % len(NAMES)) for place, name in enumerate(NAMES)}


@pytest.mark.parametrize("name", [name for name in NAMES if SHARE[name]])
def test_killed_at_random_moments(name: str, server: Server, work: Path) -> None:
    command, chance = COMMANDS[name], random.Random(f"{SEED} {name}")
    before = files(work)
    whole = server.run(list(command.args), work, umask=0o077)
    assert whole.code in (0, 1), whole.err
    made = {path: digest for path, digest in files(work).items() if path not in before}
    assert {path.split("/")[0] for path in made} - set(command.keeps) == set(command.results) - set(command.keeps)
    _permissions(work, command, 0o077)
    ends = {"absent": 0, "complete": 0, "done before": 0}
    while ends["absent"] + ends["complete"] < SHARE[name] and ends["done before"] <= 5 * SHARE[name]:
        # Two times of three the next run meets what the last one left, short of a result that it would refuse.
        begun_anew = chance.random() < 1 / 3
        if begun_anew or not command.again:
            _remove(work, command, keeping=not begun_anew)
        killed = kill_at_random(server, list(command.args), work, whole.seconds, chance)
        assert killed.code in (-signal.SIGKILL, whole.code), (killed.code, killed.err)
        ends["done before" if killed.code != -signal.SIGKILL else _end(work, command)] += 1
        now = files(work)
        assert {path: now.get(path) for path in before} == before, "an input changed"
        for path, digest in now.items():
            top = path.split("/")[0]
            if path not in before and top not in command.keeps and not top.startswith("."):
                assert digest == made[path] or path not in _repeated(made, command), f"{path} is half written"
        for result in command.results:
            if result not in command.keeps and (work / result).exists():
                verify(work / result)
    if not command.again:
        _remove(work, command, keeping=True)
    again = server.run(list(command.args), work)
    assert again.code == whole.code, again.err
    now = files(work)
    for path in _repeated(made, command):
        assert now[path] == made[path], f"{path} is another than that of a run nobody disturbed"
    left = {path for path in now if path not in before and path not in made and "/" not in path}
    assert not left, "the run did not clear up what killed ones left"
    _permissions(work, command, 0o022)
    if RECORD:
        with open(RECORD, "a", encoding="utf-8") as file:
            print(json.dumps({"command": name, **ends}), file=file)


def _end(work: Path, command: Command) -> str:
    return "complete" if all((work / result).exists() for result in command.results) else "absent"


def _repeated(made: dict[str, str], command: Command) -> list[str]:
    return [path for path in made if path.startswith(command.repeated)]


def _remove(work: Path, command: Command, keeping: bool = False) -> None:
    """What the command left, results and, unless `keeping`, what it would go on from."""
    for name in (*command.results, *(() if keeping else command.keeps)):
        path = work / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _permissions(work: Path, command: Command, umask: int) -> None:
    """New files and folders are what the user's umask makes them, whatever temporary name they had before."""
    for result in command.results:
        top = work / result
        for path in [top, *(top.rglob("*") if top.is_dir() else ())]:
            wanted = (0o777 if path.is_dir() else 0o666) & ~umask
            assert path.stat().st_mode & 0o777 == wanted, f"{path}: {path.stat().st_mode:o}, not {wanted:o}"
