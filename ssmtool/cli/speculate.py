"""ssmtool speculate: greedy decoding with a reduced model as drafter."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssmtool.cli._options import (
    CHECKPOINT,
    Device,
    DeviceOption,
    FamilyOption,
    JsonOption,
    ModelArgument,
    checked_device,
    examples,
    quiet_option,
)
from ssmtool.cli._output import emit
from ssmtool.cli._progress import Bar
from ssmtool.cli._tokens import BytesOption, SelfOption, SequencesOption, TextOption, TokensOption, token_source

if TYPE_CHECKING:
    from torch import Tensor

    from ssmtool.pipeline.model import Model
    from ssmtool.pipeline.tokens import Tokens
    from ssmtool.selective.language import LanguageModel

EXAMPLES = examples(
    "ssmtool speculate mamba2-370m --draft mamba2-370m-drop12 --prompt 'The capital of France'",
    "ssmtool speculate mamba2-370m --draft mamba2-370m-rank32 --tokens heldout.npy --tree 4x3",
    "ssmtool speculate mamba2-370m --draft auto --tokens calibration.npy --prompts prompts.txt",
)


def command(
    model: ModelArgument,
    draft: Annotated[
        str,
        typer.Option(
            "--draft",
            metavar="REDUCED",
            help=f"The drafter: {CHECKPOINT}, of the same vocabulary. auto: several are made in memory on --tokens, "
            "and the one that decodes a few prompts fastest is taken.",
            show_default=False,
        ),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="TEXT", help="A prompt, read with tokenizer.json or as bytes; repeatable."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="Prompts: the lines of a text, or the rows of a .npy or .safetensors file of tokens. Without any "
            "prompt, the first 64 tokens of eight (or --batch) sequences of --tokens, --text or --self.",
        ),
    ] = None,
    tree: Annotated[
        str,
        typer.Option(
            "--tree",
            metavar="BxD",
            help="What is drafted in a round. 4x3: the four likeliest next tokens, each with its likeliest "
            "continuation to three tokens. 1x3: a chain. adaptive, or adaptive:NODES: where the drafter is sure.",
        ),
    ] = "adaptive",
    length: Annotated[
        int, typer.Option("--length", metavar="N", min=1, help="Tokens to decode after each prompt.")
    ] = 64,
    sync: Annotated[
        str,
        typer.Option(
            "--sync",
            metavar="HOW",
            help="How the drafter learns what was accepted: project (the model's state, projected; drafts of "
            "--export projected and --drop-blocks), replay (it reads it), auto (project where that is possible).",
        ),
    ] = "auto",
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Prompts decoded at a time.")] = 1,
    costs: Annotated[
        bool, typer.Option("--costs/--no-costs", help="Measure what a round costs at batch 1 and 32.")
    ] = True,
    tokens: TokensOption = None,
    text: TextOption = None,
    as_bytes: BytesOption = False,
    sampled: SelfOption = None,
    sequences: SequencesOption = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of --self.")] = 0,
    family: FamilyOption = None,
    device: DeviceOption = Device.auto,
    json: JsonOption = False,
    quiet: Annotated[bool, quiet_option("only the continuations, one a line")] = False,
) -> None:
    """Decode greedily with a reduced model as drafter.

    The drafter proposes a tree of tokens, the model reads the tree in one pass and keeps what it would have chosen
    itself: the output is that of plain greedy decoding, token for token. Both are run; reported are the accepted
    length, the calls of the model saved, the wall time of both, and what a round costs at batch 1 and 32.

    Models of Mamba blocks alone. Exit code 1 if a continuation were not that of plain decoding.
    """
    where = checked_device(device)
    source = token_source(tokens, text, as_bytes, sampled, None, sequences, seed)
    from ssmtool.errors import UsageError
    from ssmtool.pipeline.model import load
    from ssmtool.pipeline.speculative.plan import Plan
    from ssmtool.pipeline.speculative.speculate import BATCHES, checked_prompts, open_stack, paired, speculate
    from ssmtool.pipeline.tokens import read_tokens

    plan = Plan.parse(tree)
    if draft == "auto" and source is None:
        raise UsageError(
            "--draft auto makes drafts on calibration tokens, and none are given",
            remedy="Give --tokens FILE, --text FILE, or --self N to let the model sample its own",
        )
    found = load(model, family=family)
    with Bar(quiet) as bar:
        verifier = open_stack(found, where)
        given = None if source is None else read_tokens(source, found, verifier)
        asked = read_prompts(prompt, prompts, given, found, verifier, batch)
        checked_prompts(asked, verifier.vocabulary)
        trials = ()
        if draft == "auto":
            from ssmtool.pipeline.speculative.auto import best_draft, candidates

            assert given is not None
            made = candidates(found, verifier, given, bar.step)
            pair, name, trials = best_draft(verifier, made, plan, asked, sync=sync, step=bar.step)
        else:
            pair, name = paired(verifier, open_stack(load(draft, family=family), where), sync), draft
        result = speculate(
            pair,
            plan,
            asked,
            length,
            name=name,
            batch=batch,
            batches=BATCHES if costs else (),
            trials=trials,
            step=bar.step,
        )
    if json:
        from ssmtool.report.json_text import json_text
        from ssmtool.report.speculate_document import speculate_document

        options = {"draft": draft, "prompt": prompt, "prompts": prompts, "tree": tree, "length": length, "sync": sync}
        options |= {"batch": batch, "costs": costs, "tokens": tokens, "text": text, "bytes": as_bytes, "self": sampled}
        options |= {"sequences": sequences, "seed": seed, "family": family, "device": device.value}
        emit(json_text(speculate_document(found, result, options)))
    else:
        from ssmtool.pipeline.speculative.prompts import decoded

        readable = [decoded(row, found, verifier.vocabulary) for row in result.tokens] if prompt else None
        lines = readable or [" ".join(map(str, row)) for row in result.tokens]
        if quiet:
            emit("\n".join(lines))
        else:
            from ssmtool.report.text.speculate import speculate_text

            emit(speculate_text(found.checkpoint.path, result, readable[0] if readable else None))
    if not result.passed:
        wrong = result.prompts - result.identical
        print(f"ssmtool: {wrong} continuations are not those of plain greedy decoding", file=sys.stderr)
        raise typer.Exit(1)


def read_prompts(
    texts: list[str] | None,
    file: Path | None,
    given: Tokens | None,
    model: Model,
    verifier: LanguageModel,
    batch: int,
) -> list[Tensor]:
    """The prompts of the options, or else the beginnings of the token sequences. Raises UsageError, CheckpointError."""
    from ssmtool.pipeline.speculative.prompts import COUNT, beginnings, encoded, prompts_of_file

    found = [encoded(text, model, verifier.vocabulary) for text in texts or ()]
    if file is not None:
        found += prompts_of_file(file, model, verifier)
    if not found and file is None and given is not None:
        found = beginnings(given, max(COUNT, batch))
    return found
