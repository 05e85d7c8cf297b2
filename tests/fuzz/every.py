"""All targets by name."""

from __future__ import annotations

from tests.fuzz.targets import TARGETS as READERS
from tests.fuzz.targets import Target
from tests.fuzz.targets_checks import CHECKS
from tests.fuzz.targets_commands import COMMANDS

TARGETS: dict[str, Target] = {**READERS, **CHECKS, **COMMANDS}
