"""Charts as inline SVG. Colours are classes of report.css, so that they follow the theme; every string is escaped."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from ssmtool.report.overview.axes import marked_columns, place, ticks
from ssmtool.report.overview.chart import Chart, Heat, Picture, Series
from ssmtool.shown import printable

WIDTH, HEIGHT = 440.0, 280.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 12.0, 8.0, 42.0
DISK = 284.0  # height of a pole map; as wide as the others, so that charts stand in line
SHADES = 16  # steps of the colour map in report.css
CELL, NAME = 15.0, 150.0  # height of a row of the heat map, room for its name
_NAME_LENGTH = 24

Point = tuple[float, float]


def draw(picture: Picture) -> Markup:
    """The picture as one <svg> element with its text alternative."""
    return _heat(picture) if isinstance(picture, Heat) else _chart(picture)


def legend(chart: Chart) -> list[tuple[str, Markup]]:
    """(label, swatch) of every series that has a label and a colour of its own, each label once."""
    found: dict[str, Markup] = {}
    for series in chart.series:
        if series.label and series.shade is None and series.label not in found:
            found[series.label] = _swatch(series)
    if chart.level is not None and chart.level[1]:
        found[chart.level[1]] = Markup(
            '<svg viewBox="0 0 24 10" aria-hidden="true"><path class="level" d="M0 5h24"/></svg>'
        )
    return list(found.items())


def _swatch(series: Series) -> Markup:
    if series.kind in ("point", "cross"):
        mark = (
            f'<path class="{_look(series)}" d="M12 5h0"/>' if series.kind == "point" else _cross(series, [(12.0, 5.0)])
        )
        return Markup(f'<svg viewBox="0 0 24 10" aria-hidden="true">{mark}</svg>')
    return Markup(f'<svg viewBox="0 0 24 10" aria-hidden="true"><path class="{_look(series)}" d="M0 5h24"/></svg>')


def _chart(chart: Chart) -> Markup:
    width, height = WIDTH, DISK + TOP + BOTTOM if chart.circle else HEIGHT
    left, top = LEFT, TOP
    inner = (width - left - RIGHT, height - top - BOTTOM)
    if chart.circle:
        left, inner = (width - DISK) / 2, (DISK, DISK)
    parts = [_grid(chart, left, top, inner)]
    parts.append(f'<svg x="{left:g}" y="{top:g}" width="{inner[0]:g}" height="{inner[1]:g}">')
    if chart.circle:
        reach = chart.x_range[1]
        radius = inner[0] / (2 * reach)
        parts.append(f'<circle class="circle" cx="{inner[0] / 2:g}" cy="{inner[1] / 2:g}" r="{radius:.1f}"/>')
    if chart.level is not None:
        y = inner[1] * (1 - place(chart.level[0], chart.y_range, chart.y_log))
        parts.append(f'<path class="level" d="M0 {y:.1f}h{inner[0]:g}"/>')
    parts += [_series(chart, series, inner) for series in chart.series]
    if chart.rank:
        parts.append(f'<path class="rank-line" data-width="{inner[0]:g}" d="M0 0v{inner[1]:g}"/>')
    parts.append("</svg>")
    rank = f' data-most="{chart.x_range[1]:g}"' if chart.rank else ""
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(printable(chart.alt))}"'
        f"{rank}>{''.join(parts)}</svg>"
    )


def _grid(chart: Chart, left: float, top: float, inner: tuple[float, float]) -> str:
    """Grid, tick labels and names of the axes."""
    parts, lines = [], []
    if chart.names:
        across = [(float(i), str(escape(printable(name)))) for i, name in enumerate(chart.names)]
    else:
        whole = chart.rank or chart.x_label == "layer"
        across = ticks(chart.x_range, chart.x_log, 5 if chart.circle else 7, whole)
    for value, text in across:
        x = left + inner[0] * place(value, chart.x_range, chart.x_log)
        if not chart.names:
            lines.append(f"M{x:.1f} {top:g}v{inner[1]:g}")
        parts.append(f'<text x="{x:.1f}" y="{top + inner[1] + 15:g}" text-anchor="middle">{text}</text>')
    for value, text in ticks(chart.y_range, chart.y_log, 5 if chart.circle else 6):
        y = top + inner[1] * (1 - place(value, chart.y_range, chart.y_log))
        lines.append(f"M{left:g} {y:.1f}h{inner[0]:g}")
        parts.append(f'<text x="{left - 6:g}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    middle = left + inner[0] / 2, top + inner[1] / 2
    parts.append(
        f'<text class="axis" x="{middle[0]:g}" y="{top + inner[1] + 34:g}" text-anchor="middle">'
        f"{escape(printable(chart.x_label))}</text>"
        f'<text class="axis" transform="translate({left - 44:g} {middle[1]:g}) rotate(-90)" text-anchor="middle">'
        f"{escape(printable(chart.y_label))}</text>"
    )
    return f'<path class="grid" d="{"".join(lines)}"/>' + "".join(parts)


def _series(chart: Chart, series: Series, inner: tuple[float, float]) -> str:
    points = _points(chart, series.x, series.y, inner)
    look = _look(series)
    if series.kind == "band":
        upper = _points(chart, series.x, series.upper, inner)
        pairs = [(p, q) for p, q in zip(points, upper, strict=True) if p is not None and q is not None]
        if len(pairs) < 2:
            return ""
        outline = [p for p, _ in pairs] + [q for _, q in reversed(pairs)]
        return f'<path class="{look}" d="{_polyline(outline)}Z"/>'
    if series.kind == "point":
        return f'<path class="{look}" d="{_marks(points, "h0")}"/>'
    if series.kind == "cross":
        return _cross(series, filter(None, points))
    if series.kind == "bar":
        return _bars(chart, series, points, inner)
    if series.kind == "step":
        points = _stairs(points)
    return f'<path class="{look}" d="{_polyline(points)}"/>'


def _points(chart: Chart, xs: Sequence[float], ys: Sequence[float], inner: tuple[float, float]) -> list[Point | None]:
    """Places in the plot; None for gaps. What lies far outside is brought close: the frame cuts it off."""
    out: list[Point | None] = []
    for x, y in zip(xs, ys, strict=True):
        h, v = place(x, chart.x_range, chart.x_log), place(y, chart.y_range, chart.y_log)
        if y == 0 and chart.y_log:
            v = -0.1
        if math.isnan(h) or math.isnan(v):
            out.append(None)
        else:
            out.append((inner[0] * min(max(h, -0.5), 1.5), inner[1] * (1 - min(max(v, -0.5), 1.5))))
    return out


def _polyline(points: Iterable[Point | None]) -> str:
    """A path through the points, lifted at gaps."""
    pen, lifted = _Pen(), True
    for point in points:
        if point is None:
            lifted = True
            continue
        pen.to(point, lifted)
        lifted = False
    return pen.path()


class _Pen:
    """Writes a path in tenths of a unit, each point relative to the one before: half as long as absolute ones."""

    def __init__(self) -> None:
        self._at, self._parts, self._command = (0, 0), [], ""

    def to(self, point: Point, lifted: bool, mark: str = "", end: tuple[int, int] = (0, 0)) -> None:
        """Go on to a point; `mark` is drawn there and ends `end` tenths away from it."""
        x, y = round(10 * point[0]), round(10 * point[1])
        step = _tenths(x - self._at[0]) + _joined(_tenths(y - self._at[1]))
        command = "m" if lifted else "l"
        # numbers that follow an m or an l without a letter are lines
        plain = command == "l" and self._command == "l" and not mark
        self._parts.append((_joined(step) if plain else command + step) + mark)
        self._at, self._command = (x + end[0], y + end[1]), "" if mark else "l"

    def path(self) -> str:
        return "".join(self._parts)


def _tenths(value: int) -> str:
    """A number of tenths as short as SVG reads it: -.5, 3, 12.1."""
    whole, part = divmod(abs(value), 10)
    sign = "-" if value < 0 else ""
    return f"{sign}{whole or ''}.{part}" if part else f"{sign}{whole}"


def _joined(number: str) -> str:
    """The number after another one: a minus needs no blank."""
    return number if number.startswith("-") else " " + number


def _marks(points: Iterable[Point | None], mark: str, end: tuple[int, int] = (0, 0)) -> str:
    """The mark at every point; it ends so many tenths away."""
    pen = _Pen()
    for point in points:
        if point is not None:
            pen.to(point, True, mark, end)
    return pen.path()


def _stairs(points: Sequence[Point | None]) -> list[Point | None]:
    """Corners of a histogram whose bins are centred on the points."""
    solid = [point for point in points if point is not None]
    if len(solid) < 2:
        return list(solid)
    edges = [(a[0] + b[0]) / 2 for a, b in itertools.pairwise(solid)]
    edges = [2 * solid[0][0] - edges[0], *edges, 2 * solid[-1][0] - edges[-1]]
    out: list[Point | None] = []
    for (_, y), low, high in zip(solid, edges, edges[1:], strict=False):
        out += [(low, y), (high, y)]
    return out


def _cross(series: Series, points: Iterable[Point | None]) -> str:
    marks = _marks((None if p is None else (p[0] - 3, p[1]) for p in points), "h6m-3-3v6", (30, 30))
    return f'<path class="{_look(series)}" d="{marks}"/>'


def _bars(chart: Chart, series: Series, points: Sequence[Point | None], inner: tuple[float, float]) -> str:
    zero = inner[1] * (
        1 - place(max(0.0, chart.y_range[0]) if not chart.y_log else chart.y_range[0], chart.y_range, chart.y_log)
    )
    width = 0.7 * inner[0] / max(1, len(series.x))
    out = []
    for value, point in zip(series.y, points, strict=True):
        if point is not None:
            x, y = point
            tone = "t0" if value >= 0 else "t1"
            out.append(
                f'<path class="bar {tone}" d="M{x - width / 2:.1f} {zero:.1f}V{y:.1f}h{width:.1f}V{zero:.1f}Z"/>'
            )
    return "".join(out)


def _look(series: Series) -> str:
    """Classes: what it is, its colour, its dashes."""
    colour = f"t{series.tone % 7}" if series.shade is None else f"v{round(series.shade * (SHADES - 1))}"
    dash = f" d{series.dash}" if series.dash and series.kind in ("line", "step") else ""
    faint = " faint" if series.faint else ""
    return f"{series.kind} {colour}{dash}{faint}"


def _heat(heat: Heat) -> Markup:
    """Rows of equal colour are one rectangle each, so that 48 layers stay small."""
    rows, columns = heat.values.shape
    cell = max(CELL, min(28.0, 180.0 / max(rows, 1)))
    width, height = 900.0, rows * cell
    left, right, top, bottom = NAME, 10.0, 4.0, 40.0
    step = (width - left - right) / columns
    parts = []
    paths: dict[int, list[str]] = {}
    for i in range(rows):
        start = 0
        levels = [_level(v, heat.lowest) for v in heat.values[i]]
        for j in range(1, columns + 1):
            if j == columns or levels[j] != levels[start]:
                level = levels[start]
                if level is not None:
                    x, y = left + start * step, top + i * cell
                    paths.setdefault(level, []).append(
                        f"M{x:.1f} {y:.1f}h{(j - start) * step:.1f}v{cell - 1:.1f}H{x:.1f}Z"
                    )
                start = j
        name = printable(heat.rows[i])
        short = name if len(name) <= _NAME_LENGTH else "…" + name[1 - _NAME_LENGTH :]
        parts.append(
            f'<text x="{left - 6:g}" y="{top + (i + 0.5) * cell + 4:.1f}" text-anchor="end">{escape(short)}'
            f"<title>{escape(name)}</title></text>"
        )
    parts += [f'<path class="h{level}" d="{"".join(cells)}"/>' for level, cells in sorted(paths.items())]
    for j in marked_columns(heat.columns, 12):
        x = left + (j + 0.5) * step
        parts.append(f'<text x="{x:.1f}" y="{top + height + 14:g}" text-anchor="middle">{heat.columns[j]}</text>')
    parts.append(
        f'<text class="axis" x="{left + (width - left - right) / 2:g}" y="{top + height + 34:g}" '
        f'text-anchor="middle">{escape(heat.x_label)}</text>'
    )
    return Markup(
        f'<svg class="chart wide" viewBox="0 0 {width:g} {top + height + bottom:g}" role="img" '
        f'aria-label="{escape(printable(heat.alt))}">{"".join(parts)}</svg>'
    )


def _level(value: float, lowest: float) -> int | None:
    """Step of the colour map: 0 darkest, the smallest."""
    if math.isnan(value):
        return None
    share = min(max(1 - value / lowest, 0.0), 1.0)
    return min(SHADES - 1, int(share * SHADES))
