"""Options that make a policy, the same for check and config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssmtool import plugins

if TYPE_CHECKING:
    from ssmtool.checks.policy import Policy
    from ssmtool.pipeline.tokens import TokenSource

RULES = "ssmtool.checks.rules"

PolicyOption = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        help="Policy: [check] of this file, or [tool.ssmtool.check] of a pyproject.toml.",
        show_default="the nearest ssmtool.toml or pyproject.toml upward",
    ),
]

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="RULE.KEY=VALUE", help="Change one key of the policy, e.g. order.max=32; may be repeated."
    ),
]


def rules(incomplete: str) -> list[str]:
    """Rules whose name starts with what was typed."""
    return [name for name in plugins.names(RULES) if name.startswith(incomplete)]


def resolved(policy: Path | None, changes: list[str] | None) -> Policy:
    """The policy of a file, or of the nearest one, with changes. Raises UsageError."""
    from ssmtool.checks.policy_file import find_policy, read_policy

    return read_policy(policy if policy is not None else find_policy(Path.cwd()), changes or ())


def policy_tokens(policy: Policy) -> TokenSource | None:
    """Where the policy says tokens are from. Raises UsageError."""
    from ssmtool.cli._tokens import token_source

    value = policy.value
    tokens, text = (None if value(key) is None else Path(value(key)) for key in ("tokens", "text"))
    return token_source(tokens, text, value("bytes"), value("self"), value("length"), value("sequences"), value("seed"))
