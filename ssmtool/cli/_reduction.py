"""Options of `compress` that say how linear time-invariant layers are reduced and refined."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssmtool import plugins
from ssmtool.cli import _complete
from ssmtool.errors import UsageError

MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME",
        autocompletion=_complete.methods,
        help=f"How to reduce: {', '.join(plugins.names(_complete.METHODS))}; or best, which tries those that can be "
        "asked on every layer and keeps the one with the least measured error (docs/reductions.md). With --refine the "
        "default is time_limited, to the length of the calibration inputs.",
        show_default="balanced",
    ),
]
ScoreOption = Annotated[str, typer.Option("--score", metavar="NAME", help="Of --method modal: last, aire, hinf or h2.")]
HorizonOption = Annotated[
    int | None,
    typer.Option("--horizon", metavar="L", help="Steps that matter: for --method time_limited and for --residues."),
]
BandOption = Annotated[
    str | None,
    typer.Option(
        "--band",
        metavar="LOW:HIGH",
        help="Frequencies that matter, in radians per step between 0 and pi: for --method band_limited.",
    ),
]
ResiduesOption = Annotated[
    bool,
    typer.Option(
        "--residues",
        help="Refit the result's output weights, poles fixed, by least squares on the original's impulse response.",
    ),
]
CalibrateOption = Annotated[
    Path | None,
    typer.Option(
        "--calibrate",
        metavar="FILE",
        help="Inputs the model is used on, no labels: an .npy array (sequences, length, channels), or integers "
        "(sequences, length). For --refine, --method input_weighted and --method best.",
    ),
]
CodeOption = Annotated[
    str | None,
    typer.Option(
        "--model-code",
        metavar="FILE.py:NAME",
        help="Function NAME(state_dict) of your own code that returns the model as a torch.nn.Module, sizes read from "
        "the shapes. Runs that file. Not needed for the reference models of fixtures/.",
    ),
]
RefineOption = Annotated[
    int | None,
    typer.Option(
        "--refine",
        metavar="STEPS",
        min=1,
        help="Fit the reduced layers to the original on the --calibrate inputs: optimiser steps per layer. --rank then "
        "counts two states per stored slot.",
    ),
]
FinalOption = Annotated[
    int | None,
    typer.Option(
        "--final",
        metavar="STEPS",
        min=0,
        help="Steps of the last part of --refine, all layers together on the model's outputs. Default: 3 x --refine.",
    ),
]
OutputsOption = Annotated[
    str | None,
    typer.Option(
        "--outputs",
        metavar="KIND",
        help="What the model's outputs are for --refine: classes (logits; compared by KL divergence) or values (mean "
        "square). Default: classes for reference models and models of tokens, values for others.",
    ),
]
ControlOption = Annotated[
    bool,
    typer.Option(
        "--control", help="With --refine: the same fit on white noise beside it, to show what the data are worth."
    ),
]
PadOption = Annotated[
    int | None,
    typer.Option(
        "--pad-to", metavar="N", help="Store a multiple of N slots, e.g. for kernels that want a power of two."
    ),
]


def parsed_band(text: str | None) -> tuple[float, float] | None:
    """LOW:HIGH as numbers. Raises UsageError."""
    if text is None:
        return None
    low, colon, high = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return float(low), float(high)
    except ValueError:
        raise UsageError(
            f"--band {text!r} is not LOW:HIGH", remedy="Two numbers in radians per step, e.g. 0:0.5"
        ) from None
