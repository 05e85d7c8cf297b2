"""Functions whose result torch.compile may take for a constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def constant(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `torch.compiler.assume_constant_result` does, by the same mark.

    The original imports the compiler, which takes more than a second, in every process, whether it compiles or not.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
