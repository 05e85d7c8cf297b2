"""Values the shell completes. They are file names: nothing is imported to list them."""

from __future__ import annotations

from ssmtool import plugins

FAMILIES = "ssmtool.families"
LAYOUTS = "ssmtool.reference.layouts"
METHODS = "ssmtool.reductions"
TASKS = "ssmtool.training.tasks"


def families(incomplete: str) -> list[str]:
    """Families whose name starts with what was typed."""
    return _starting(FAMILIES, incomplete)


def layouts(incomplete: str) -> list[str]:
    """Layouts of reference models whose name starts with what was typed."""
    return _starting(LAYOUTS, incomplete)


def methods(incomplete: str) -> list[str]:
    """Reductions whose name starts with what was typed."""
    return _starting(METHODS, incomplete)


def tasks(incomplete: str) -> list[str]:
    """Tasks whose name starts with what was typed."""
    return _starting(TASKS, incomplete)


def _starting(package: str, incomplete: str) -> list[str]:
    return [name for name in plugins.names(package) if name.startswith(incomplete)]
