"""The command line that is being run, for the provenance of what it writes."""

from __future__ import annotations

import shlex
from typing import Any


def typed(context: Any) -> str:
    """The command with every option that was given, as a shell would take it, in the order of --help.

    Values come from the parser and not from the process, so that it is right however the program was started.
    """
    words = ["ssmtool", context.info_name]
    trailing = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name)
        source = context.get_parameter_source(parameter.name)
        if source is None or source.name != "COMMANDLINE" or value is None:
            continue
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif isinstance(value, bool):
            trailing.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            for item in value if isinstance(value, (list, tuple)) else [value]:
                trailing += [parameter.opts[0], str(getattr(item, "value", item))]
    return shlex.join(words + trailing)
