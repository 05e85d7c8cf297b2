"""Options that say which tokens a selective model is looked at with, the same for every sub-command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ssmtool.pipeline.tokens import TokenSource

TokensOption = Annotated[
    Path | None,
    typer.Option(
        "--tokens",
        metavar="FILE",
        help="Selective models: token sequences, integers (sequences, length): .npy, or .safetensors with one integer "
        "tensor or one named tokens.",
    ),
]

TextOption = Annotated[
    Path | None,
    typer.Option(
        "--text",
        metavar="FILE",
        help="Selective models: UTF-8 text instead, cut into sequences; read with the model's tokenizer.json.",
    ),
]

BytesOption = Annotated[bool, typer.Option("--bytes", help="The bytes of --text are its tokens.")]

SelfOption = Annotated[
    int | None,
    typer.Option("--self", metavar="N", min=1, help="Selective models: N sequences sampled from the model itself."),
]

LengthOption = Annotated[
    int | None,
    typer.Option(
        "--length",
        metavar="L",
        min=1,
        help="Tokens per sequence of --text and --self.",
        show_default="256",
    ),
]

SequencesOption = Annotated[
    int | None,
    typer.Option(
        "--sequences",
        metavar="N",
        min=1,
        help="At most N sequences of --tokens or --text, at equal distances.",
        show_default="all of --tokens, 256 of --text",
    ),
]

SeedOption = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of what is drawn at random.")]


def token_source(
    tokens: Path | None,
    text: Path | None,
    as_bytes: bool,
    sampled: int | None,
    length: int | None,
    sequences: int | None,
    seed: int,
) -> TokenSource | None:
    """What the options ask for; None where none of --tokens, --text and --self was given.

    Raises:
        UsageError: options that contradict each other.
    """
    from ssmtool.errors import UsageError

    if tokens is None and text is None and sampled is None:
        if as_bytes or sequences is not None:
            raise UsageError("--bytes and --sequences need --tokens or --text")
        return None
    from ssmtool.pipeline.tokens import LENGTH, TokenSource

    return TokenSource(tokens, text, as_bytes, sampled, LENGTH if length is None else length, sequences, seed)
