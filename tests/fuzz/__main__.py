"""Fuzz every reader at random: python -m tests.fuzz [--seconds N] [--record FILE] [TARGET ...], which `make fuzz` runs.

The targets are those of the ordinary suite, with new seeds every time. What fails is shrunk, printed with the seed and
the case that reproduces it, and makes the exit code 1; the other targets are fuzzed all the same.
"""

from __future__ import annotations

import argparse
import json
import platform
import secrets
import sys
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.every import TARGETS
from tests.fuzz.hold import held, undamaged
from tests.fuzz.targets import Case, cases

ROUND = 300  # inputs between two looks at the clock


def fuzz(name: str, seconds: float) -> dict[str, int]:
    """Fuzz one target for a while.

    Returns:
        inputs tried, how many of them were read and how many refused, and failures.
    """
    target = TARGETS[name]
    undamaged(target)
    end = time.monotonic() + seconds
    counts = {"tried": 0, "read": 0, "refused": 0, "failures": 0}
    while time.monotonic() < end:
        number = secrets.randbits(64)

        @seed(number)
        @settings(
            max_examples=ROUND, database=None, deadline=None, suppress_health_check=[*HealthCheck],  # pyright: ignore[reportArgumentType]
            phases=(Phase.generate, Phase.shrink), print_blob=False,
        )  # fmt: skip
        @given(cases)
        def hold(case: Case) -> None:
            if time.monotonic() < end:  # else the rest of the round passes at once
                counts["tried"] += 1
                counts["refused" if held(target, case) else "read"] += 1

        try:
            hold()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            traceback.print_exc()
            print(f"== {name}: seed {number}", flush=True)
            counts["failures"] += 1
            if counts["failures"] > 5:
                break
    return counts


def main() -> int:
    """Fuzz the targets named, all by default; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=600, help="in all")
    parser.add_argument("--record", type=Path, help="a JSON file for the numbers of inputs")
    asked = parser.parse_args()
    names, begin = asked.targets or list(TARGETS), time.monotonic()
    found = {}
    for name in names:
        found[name] = fuzz(name, asked.seconds / len(names))
        print(f"{name:14}", *(f"{value:>9,} {key}" for key, value in found[name].items()), flush=True)
    total = sum(counts["tried"] for counts in found.values())
    seconds = round(time.monotonic() - begin)
    print(f"{total:,} inputs in {seconds} s")
    if asked.record:
        machine = {"python": platform.python_version(), "machine": platform.machine()}
        asked.record.write_text(
            json.dumps({"seconds": seconds, "inputs": total, **machine, "targets": found}, indent=1) + "\n"
        )
    return 1 if any(counts["failures"] for counts in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
