"""ssmtool config: the policy that is in force here, and where each of its values is from."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from ssmtool.cli._options import JsonOption, examples
from ssmtool.cli._output import emit
from ssmtool.cli._policy import PolicyOption, SetOption, resolved

EXAMPLES = examples(
    "ssmtool config show",
    "ssmtool config show --policy ci/ssmtool.toml --json",
)


class Action(str, Enum):
    """What to do with the configuration."""

    show = "show"


def command(
    action: Annotated[Action, typer.Argument(help="show prints the policy that check would use here.", metavar="show")],
    policy: PolicyOption = None,
    changes: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Show the policy that check would use here.

    Every setting and rule, its value, and the file and line it is from. The file is the nearest ssmtool.toml, or
    pyproject.toml with a [tool.ssmtool], upward from the current directory.
    """
    found = resolved(policy, changes)
    if json:
        from ssmtool.report.config_document import config_document
        from ssmtool.report.json_text import json_text

        emit(json_text(config_document(found, {"policy": policy, "set": changes})))
    else:
        from ssmtool.report.text.config import config_text

        emit(config_text(found))
