"""The look of pictures for papers: this project's, then the user's matplotlibrc, then the style sheets asked for."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib import rc_context, rc_params_from_file, rcParams, style
from matplotlib.figure import Figure

from ssmtool.errors import OutputError, UsageError
from ssmtool.report.plot import STYLE, UNDATED

# Okabe-Ito: told apart with every common colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

BASE: Any = {**STYLE, "axes.prop_cycle": cycler(color=COLOURS), "image.cmap": "viridis", "lines.linewidth": 1.3}
# What holds whatever a style says: the same bytes every time, and no mathematics in the names of layers.
FIXED: Any = {"svg.hashsalt": "ssmtool", "text.parse_math": False}


@contextmanager
def drawing(styles: Sequence[str] = ()) -> Iterator[None]:
    """Matplotlib's settings for what is drawn inside.

    Args:
        styles: names that Matplotlib knows, or files; the last one wins.

    Raises:
        UsageError: there is no such style.
    """
    with rc_context():
        mine = users_settings()
        rcParams.update({name: value for name, value in BASE.items() if name not in mine})
        for one in styles:
            try:
                style.use(one)
            except (OSError, ValueError) as error:
                known = ", ".join(sorted(name for name in style.available if not name.startswith("_")))
                raise UsageError(
                    f"--style {one}: {' '.join(str(error).split())[:200]}",
                    remedy=f"Give a .mplstyle file or one of {known}",
                ) from error
        family = rcParams["font.family"]
        rcParams.update({**FIXED, "font.family": [*family, *(["DejaVu Sans"] if "DejaVu Sans" not in family else [])]})
        yield


def users_settings() -> frozenset[str]:
    """Names of what the user's own matplotlibrc sets; Matplotlib has read it already."""
    file = Path(matplotlib.matplotlib_fname())
    if file.parent == Path(matplotlib.get_data_path()):
        return frozenset()
    return frozenset(rc_params_from_file(file, use_default_template=False))


def rendered(figure: Figure, suffix: str) -> bytes:
    """The figure as .svg, .png or .pdf. Raises OutputError: the style asks for what is not there (TeX, say)."""
    out = io.BytesIO()
    try:
        figure.savefig(out, format=suffix.lstrip(".").lower(), metadata=UNDATED[suffix.lower()])
    except (RuntimeError, ValueError, OSError) as error:
        line = " ".join(str(error).split())[:200]
        raise OutputError(f"the picture cannot be drawn: {line}", remedy="Try without --style") from error
    return out.getvalue()
