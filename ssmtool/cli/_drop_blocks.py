"""What compress does with --drop-blocks: open the model, read the tokens, drop, print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmtool.cli._output import emit
from ssmtool.cli._progress import Bar

if TYPE_CHECKING:
    from ssmtool.pipeline.model import Model
    from ssmtool.pipeline.tokens import TokenSource


def drop(
    model: Model,
    source: TokenSource | None,
    output: Path | None,
    count: int,
    dry_run: bool,
    device: str,
    document: Mapping[str, Any] | None,
    quiet: bool,
) -> None:
    """Leave `count` blocks out. Args: document: options for JSON, None for text.

    Raises:
        UsageError: no tokens.
    """
    from ssmtool.errors import UsageError
    from ssmtool.pipeline.drop_blocks import drop_blocks, droppable
    from ssmtool.pipeline.runner import open_runner
    from ssmtool.pipeline.tokens import read_tokens

    droppable(model, count)
    if source is None:
        raise UsageError(
            "blocks are chosen by the loss on tokens, and none are given",
            remedy="Give --tokens FILE, --text FILE, or --self N to let the model sample its own",
        )
    with Bar(quiet) as bar:
        runner = open_runner(model, device)
        tokens = read_tokens(source, model, runner)
        done = drop_blocks(model, runner, tokens, output, count, dry_run=dry_run, step=bar.step)
    if document is not None:
        from ssmtool.report.drop_blocks_document import drop_blocks_document
        from ssmtool.report.json_text import json_text

        emit(json_text(drop_blocks_document(model, done, document)))
    elif quiet:
        emit(str(done.output or ""))
    else:
        from ssmtool.report.text.drop_blocks import drop_blocks_text

        emit(drop_blocks_text(done))
