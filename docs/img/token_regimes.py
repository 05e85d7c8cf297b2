"""Draw the three regimes of the one-dimensional token dynamics: ``python docs/img/token_regimes.py``.

Writes token-regimes.svg beside this file. The mathematics is ssmtool/analyses/_token_flow.py and docs/diagnose.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ssmtool.analyses._contract import Panel
from ssmtool.analyses._numbers import curve
from ssmtool.analyses._token_flow import convergence_constants, token_flow
from ssmtool.report.section_plot import save_section

START = np.array([1.0, -0.7, 0.5])


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("token-regimes.svg")
    save_section((converging(), diverging(), blowing_up()), target, "Tokens over depth, one dimension")


def converging() -> Panel:
    """mu < 0: |x| sqrt(t) against its limits."""
    t = np.concatenate([[0.0], np.geomspace(1e-2, 1e6, 160)])
    flow = token_flow(START, t, mu=-1.0, step_slope=0.5)
    limits = convergence_constants(-1.0, float(np.log(2)), 1.0)
    tokens = [curve(t[1:], np.abs(x[1:]) * np.sqrt(t[1:]), f"token {i}, |x|√t") for i, x in enumerate(flow.x, start=1)]
    lines = [curve(t[[1, -1]], [limit] * 2, f"limit {limit:.4f}") for limit in limits]
    return Panel("μ < 0: convergence", "depth t", "|x| √t", (*tokens, *lines), x_log=True)


def diverging() -> Panel:
    """mu > 0 and all steps closing: x against ln t."""
    t = np.concatenate([[0.0], np.geomspace(1.0, 1e12, 160)])
    flow = token_flow(-np.abs(START), t, mu=1.0, step_slope=1.0)
    tokens = [curve(t[1:], np.abs(x[1:]), f"token {i}") for i, x in enumerate(flow.x, start=1)]
    return Panel(
        "μ > 0, all S_Δ x < 0: slow divergence",
        "depth t",
        "|x|",
        (*tokens, curve(t[1:], np.log(np.maximum(t[1:], 1.0)), "ln t / |S_Δ|")),
        x_log=True,
    )


def blowing_up() -> Panel:
    """mu > 0 and an open step: a pole at a finite depth."""
    pole = token_flow(START, np.array([0.0, 9.0]), mu=1.0, step_slope=1.0).blow_up
    assert pole is not None
    t = np.concatenate([[0.0], pole * (1 - np.geomspace(0.99, 1e-6, 200))])
    flow = token_flow(START, t, mu=1.0, step_slope=1.0)
    tokens = [curve(flow.t, np.abs(x), f"token {i}") for i, x in enumerate(flow.x, start=1)]
    return Panel(f"μ > 0, some S_Δ x > 0: blow-up at t = {pole:.3f}", "depth t", "|x|", tuple(tokens), y_log=True)


if __name__ == "__main__":
    main()
