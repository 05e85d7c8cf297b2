"""Numbers and limits in words, the same in every output."""

from __future__ import annotations

import math

from ssmtool.checks.limits import Limit
from ssmtool.checks.rules._contract import Measurement

_WORSE = {"min": "less than", "max": "more than", "max_increase": "more than", "max_decrease": "more than"}


def number(value: float | None, unit: str = "") -> str:
    """A count as it is, a measured number with three significant digits; – for what does not exist."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if unit and value == int(value):
        return f"{int(value):,}"
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def limit_text(limit: Limit) -> str:
    """A limit as a table shows it: ≤ 40, rise ≤ 10 %."""
    sign = {"min": "≥ ", "max": "≤ ", "max_increase": "rise ≤ ", "max_decrease": "fall ≤ "}[limit.kind]
    return sign + limit.text


def outcome_text(
    limit: Limit, now: Measurement, was: float | None, holds: bool | None, compared: bool, unit: str
) -> str:
    """What is wrong, or why it could not be evaluated; "" if the limit holds."""
    if holds:
        return ""
    if holds is None:
        if limit.against_baseline:
            reason = "the baseline does not have this number" if compared else "no --baseline"
            return f"{limit_text(limit)} not judged: {reason}"
        return f"{limit_text(limit)} not judged: there is nothing to take a percentage of"
    value = number(now.value, unit)
    if limit.against_baseline:
        assert was is not None
        verb = "rose" if limit.kind == "max_increase" else "fell"
        change = _change(limit, now.value, was, unit)
        return f"{value}, was {number(was, unit)}: {verb} by {change}, more than {limit.text}"
    if limit.percent and now.whole:
        share = f"{100 * now.value / now.whole:.3g} %"
        return f"{value} of {number(now.whole, unit)} ({share}), {_WORSE[limit.kind]} {limit.text}"
    of = f" of {number(now.whole, unit)}" if now.whole and unit else ""
    return f"{value}{of}, {_WORSE[limit.kind]} {limit.text}"


def _change(limit: Limit, now: float, was: float, unit: str) -> str:
    if limit.percent:
        return f"{100 * abs(now - was) / abs(was):.3g} %" if was and math.isfinite(now - was) else "∞ %"
    return number(abs(now - was), unit)
