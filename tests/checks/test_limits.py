"""Limits: how they are spelled, and when a number keeps them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmtool.checks.limits import KINDS, Kind, Limit, parse_limit

NUMBERS = st.floats(-1e12, 1e12)


@pytest.mark.parametrize(
    ("text", "amount", "percent"),
    [
        (40, 40, False),
        (0.5, 0.5, False),
        ("50%", 50, True),
        (" 12.5 % ", 12.5, True),
        ("1e1%", 10, True),
        (-3, -3, False),
    ],
)
def test_spellings(text, amount, percent):
    assert parse_limit("max", text) == Limit("max", amount, percent)


@pytest.mark.parametrize("value", ["50", "half", "%", "50 percent", "", math.inf, math.nan, "1e999%"])
def test_what_is_no_limit(value):
    with pytest.raises(ValueError, match=r"percentage|finite"):
        parse_limit("max", value)


@pytest.mark.parametrize("kind", ["max_increase", "max_decrease"])
def test_a_change_that_is_allowed_is_not_negative(kind):
    with pytest.raises(ValueError, match="negative"):
        parse_limit(kind, -1)
    with pytest.raises(ValueError, match="negative"):
        parse_limit(kind, "-1%")


@given(NUMBERS, NUMBERS)
def test_bounds_are_as_defined(value, limit):
    """Beyond rounding, a limit holds exactly if the comparison does."""
    apart = abs(value - limit) > 1e-8 * max(abs(value), abs(limit))
    kinds: list[tuple[Kind, bool]] = [("min", value >= limit), ("max", value <= limit)]
    for kind, holds in kinds:
        one = Limit(kind, limit, False)
        bound = one.bound(None, None)
        assert bound is not None
        assert bound == limit
        if apart:
            assert one.holds(value, bound) == holds


@given(NUMBERS, NUMBERS, st.floats(0, 1e3))
def test_changes_are_of_the_baseline(value, was, amount):
    kinds: list[tuple[Kind, int]] = [("max_increase", 1), ("max_decrease", -1)]
    for kind, sign in kinds:
        for percent, change in ((False, amount), (True, amount / 100 * abs(was))):
            one = Limit(kind, amount, percent)
            bound = one.bound(123.0, was)
            assert bound is not None
            moved = sign * (value - was)
            if abs(moved - change) > 1e-8 * (abs(value) + abs(was) + change):
                assert one.holds(value, bound) == (moved <= change)


def test_percentages_of_min_and_max_are_of_the_whole():
    assert Limit("max", 50, True).bound(64, None) == 32
    assert Limit("max", 50, True).bound(None, None) is None
    assert Limit("max_increase", 50, True).bound(64, None) is None


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_number_keeps_no_limit(kind):
    assert not Limit(kind, 1, False).holds(math.nan, 1.0)


def test_infinities():
    assert not Limit("max", 5, False).holds(math.inf, 5)
    assert Limit("min", 5, False).holds(math.inf, 5)
    assert Limit("max_increase", 0, False).holds(math.inf, math.inf)
    assert Limit("max", 1e308, False).holds(1e307, 1e308)


def test_rounding_is_no_change():
    assert Limit("max_increase", 0, False).holds(1 + 1e-12, 1)
    assert not Limit("max_increase", 0, False).holds(1 + 1e-6, 1)
