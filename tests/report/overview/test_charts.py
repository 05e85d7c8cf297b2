"""Axes, thinning, and SVG made of charts."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as xml
from dataclasses import replace

import numpy as np
import pytest

from ssmtool.report.overview.axes import place, power, ticks
from ssmtool.report.overview.chart import Chart, Heat, Series, decades, span, thinned
from ssmtool.report.overview.sections import plain
from ssmtool.report.overview.svg import draw, legend


def chart(*series: Series, **options) -> Chart:
    return replace(Chart("title", "what it shows", "x", "y", series, (0.0, 10.0), (0.0, 1.0)), **options)


@pytest.mark.parametrize(
    ("ends", "log", "labels"),
    [
        ((0.0, 10.0), False, ["0", "2", "4", "6", "8", "10"]),
        ((0.0, 1.0), False, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ((-1.1, 1.1), False, ["−1.0", "−0.5", "0.0", "0.5", "1.0"]),
        ((1e-3, 10.0), True, ["10⁻³", "10⁻²", "10⁻¹", "1", "10"]),
        ((1.5, 6.0), True, ["2", "5"]),
    ],
)
def test_ticks_are_round_numbers_inside_the_axis(ends, log, labels):
    found = ticks(ends, log)
    assert [text for _, text in found] == labels
    assert all(ends[0] <= value <= ends[1] for value, _ in found)


@pytest.mark.parametrize("ends", [(1e-300, 1e300), (0.0, 1e-12), (5.0, 5.0), (-1e9, 1e9), (1e-12, 1.0)])
def test_any_axis_has_a_few_ticks(ends):
    for log in (False, True) if ends[0] > 0 else (False,):
        assert 1 <= len(ticks(ends, log)) <= 12


def test_labels_of_powers():
    assert [power(k) for k in (-12, -1, 0, 1, 3)] == ["10⁻¹²", "10⁻¹", "1", "10", "10³"]


def test_places_on_axes():
    assert place(10.0, (1.0, 100.0), True) == pytest.approx(0.5)
    assert math.isnan(place(0.0, (1.0, 100.0), True))
    assert place(25.0, (0.0, 100.0), False) == 0.25


def test_ends_of_axes_hold_what_is_finite():
    assert span([math.nan, 1.0, math.inf, 3.0], pad=0.5) == (0.0, 4.0)
    assert span([2.0, 2.0]) == (1.0, 3.0)
    assert span([-1.0, 10.0, 100.0], log=True, pad=0.5) == pytest.approx((10**0.5, 10**2.5))
    assert decades([1e-30, 1e-3, 0.5, math.nan], 1e-6) == (1e-6, 1.0)
    assert decades([], 1e-6) == (1e-6, 1.0)


def test_a_thinned_line_covers_all_points():
    rng = np.random.default_rng(0)
    x = np.arange(5000)
    y = rng.normal(size=5000)
    few_x, few_y = thinned(x, y, 200)
    assert len(few_x) <= 200
    assert (few_y.min(), few_y.max()) == (y.min(), y.max())
    assert (few_x[0], few_x[-1]) == (0, 4999)
    assert (y[few_x] == few_y).all()
    short = thinned(x[:50], y[:50], 200)
    assert short[0] is not few_x
    assert len(short[0]) == 50


@pytest.mark.parametrize("kind", ["line", "point", "cross", "step", "bar", "band"])
def test_every_kind_of_series_is_well_formed_xml_with_a_text_alternative(kind):
    series = Series(kind, (1.0, 2.0, 3.0), (0.1, math.nan, 0.9), "label", upper=(0.3, 0.4, 1.0))
    root = xml.fromstring(str(draw(chart(series))))
    assert root.get("role") == "img"
    assert root.get("aria-label") == "what it shows"
    assert len(root.findall(".//text")) > 4


def walked(path: str) -> list[list[tuple[float, float]]]:
    """Absolute points of a path of m, l and h, relative ones, in one list per stroke."""
    strokes: list[list[tuple[float, float]]] = []
    x = y = 0.0
    for command, rest in re.findall(r"([mlhv])([^mlhvZ]*)", path):
        numbers = [float(n) for n in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", rest)]
        steps = list(zip(numbers[::2], numbers[1::2], strict=True)) if command in "ml" else []
        steps += [(n, 0.0) if command == "h" else (0.0, n) for n in numbers if command in "hv"]
        for k, (dx, dy) in enumerate(steps):
            x, y = x + dx, y + dy
            if command == "m" and k == 0:
                strokes.append([])
            strokes[-1].append((x, y))
    return strokes


def drawn(series: Series, **options) -> list[list[tuple[float, float]]]:
    """Strokes of the only series of a chart."""
    (path,) = [
        path.get("d", "")
        for path in xml.fromstring(str(draw(chart(series, **options)))).iter("path")
        if path.get("class", "").startswith(series.kind)
    ]
    return walked(path)


def test_a_line_goes_where_the_numbers_say():
    rng = np.random.default_rng(0)
    x, y = np.sort(rng.uniform(0, 10, 3000)), rng.uniform(0, 1, 3000)
    ((corner, far),) = drawn(Series("line", (0.0, 10.0), (0.0, 1.0)))
    assert (corner[0], far[1]) == (0.0, 0.0)  # y grows downwards in SVG
    (line,) = drawn(Series("line", tuple(x), tuple(y)))
    expected = np.stack([far[0] * x / 10, corner[1] * (1 - y)], axis=1)
    np.testing.assert_allclose(line, expected, atol=0.0501)  # tenths of a unit, and no drift over 3000 steps


def test_points_and_crosses_are_where_the_numbers_say():
    xs, ys = (1.0, 9.0, 4.0), (0.2, 0.9, 0.5)
    points = drawn(Series("point", xs, ys))
    crosses = drawn(Series("cross", xs, ys))
    assert [len(stroke) for stroke in points] == [2, 2, 2]  # a line of no length, which a round cap makes a dot
    assert all(a == b for a, b in points)
    middles = [np.mean(stroke, axis=0) for stroke in crosses if stroke[0][1] == stroke[-1][1]]  # the level bars
    np.testing.assert_allclose(middles, [stroke[0] for stroke in points], atol=0.11)


def test_gaps_lift_the_pen():
    strokes = drawn(Series("line", (1.0, 2.0, 3.0, 4.0), (0.1, math.nan, 0.2, 0.3)))
    assert [len(stroke) for stroke in strokes] == [1, 2]


def test_names_and_labels_are_escaped():
    evil = '"><script>alert(1)</script>'
    drawn = str(draw(Chart(evil, evil, evil, evil, (Series("bar", (0.0,), (1.0,)),), (-1, 1), (0, 1), names=(evil,))))
    assert "<script" not in drawn
    xml.fromstring(drawn)
    heat = Heat("t", evil, "k", "key", (evil,), (1, 2), np.array([[0.0, -3.0]]))
    assert "<script" not in str(draw(heat))
    xml.fromstring(str(draw(heat)))


def test_heat_maps_join_cells_of_equal_colour():
    values = np.full((48, 90), -1.0)
    values[:, 45:] = math.nan
    drawn = str(draw(Heat("t", "alt", "k", "key", tuple(f"layer {i}" for i in range(48)), tuple(range(1, 91)), values)))
    assert drawn.count("<path") == 1
    assert drawn.split('d="')[1].split('"')[0].count("M") == 48


def test_legends_name_each_label_once_and_no_shaded_line():
    series = (
        Series("line", (0.0, 1.0), (0.0, 1.0), "a"),
        Series("point", (0.0, 1.0), (0.0, 1.0), "a"),
        Series("line", (0.0, 1.0), (0.0, 1.0), "b", shade=0.5),
    )
    assert [label for label, _ in legend(chart(*series))] == ["a"]


def test_mathematics_of_panels_becomes_plain():
    assert plain("Eigenvalues of $S_C^T S_B$") == "Eigenvalues of S_Cᵀ S_B"
