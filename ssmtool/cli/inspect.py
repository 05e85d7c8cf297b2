"""ssmtool inspect: what is in a checkpoint, from its headers alone."""

from __future__ import annotations

from typing import Annotated

from ssmtool.cli._options import FamilyOption, JsonOption, ModelArgument, examples, quiet_option
from ssmtool.cli._output import emit

EXAMPLES = examples(
    "ssmtool inspect model.safetensors",
    "ssmtool inspect checkpoints/run-7 --json | jq '.layers[].order'",
)


def command(
    model: ModelArgument,
    family: FamilyOption = None,
    json: JsonOption = False,
    quiet: Annotated[bool, quiet_option("nothing, only check that the layers are found")] = False,
) -> None:
    """Show the state-space layers of a checkpoint.

    Family, stored and real state sizes, channels, dtypes, share of the parameters. Of safetensors files only the
    headers are read, so that large sharded models answer at once.
    """
    from ssmtool.pipeline.model import load

    found = load(model, family=family)
    if json:
        from ssmtool.report.documents import inspect_document
        from ssmtool.report.json_text import json_text

        emit(json_text(inspect_document(found, {"family": family})))
    elif not quiet:
        from ssmtool.report.text.inspect import inspect_text

        emit(inspect_text(found))
