"""Charts of the report as inline SVG: small functions, no dependency.

Colours are CSS variables of the page (`--c0` … `--c5`), so one SVG serves light and dark. Every mark carries
a `<title>`, which browsers show as a tooltip and screen readers read out. All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

SERIES_COLOURS = 6
NARROW_SPACE = "\u202f"


# ------------------------------------------------------------------------------------------- numbers


def number(value: float | int | None) -> str:
    """12345 -> "12,345"; fractions keep four significant digits; None -> "–"."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def brief(value: float | int | None) -> str:
    """The same with three significant digits: for measurements that are not more exact."""
    if value is None or not math.isfinite(value):
        return "–"
    return number(float(f"{value:.3g}"))


def percent(share: float | None) -> str:
    """0.4123 -> "41.2 %", with a narrow space that does not break."""
    if share is None or not math.isfinite(share):
        return "–"
    return f"{100 * share:.1f}{NARROW_SPACE}%"


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) that cover [low, high] from inside."""
    if not high > low:
        return [low]
    raw = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


# ---------------------------------------------------------------------------------------- primitives


def _at(value: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def _text(x: float, y: float, text: str, css: str = "", anchor: str = "start", extra: str = "") -> str:
    kind = f' class="{css}"' if css else ""
    return f'<text x="{_at(x)}" y="{_at(y)}"{kind} text-anchor="{anchor}"{extra}>{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, css: str, title: str = "") -> str:
    return (
        f'<rect x="{_at(x)}" y="{_at(y)}" width="{_at(max(width, 0))}" height="{_at(max(height, 0))}" '
        f'class="{css}">{_title(title)}</rect>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{_at(x1)}" y1="{_at(y1)}" x2="{_at(x2)}" y2="{_at(y2)}" class="{css}"/>'


def _svg(width: float, height: float, label: str, parts: Iterable[str]) -> Markup:
    return Markup(  # every text in `parts` went through `escape`
        f'<div class="scroll"><svg class="chart" viewBox="0 0 {_at(width)} {_at(height)}" '
        f'style="max-width:{_at(width)}px;min-width:{_at(0.6 * width)}px" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg></div>'
    )


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


@dataclass(frozen=True)
class _Frame:
    """A plot's inner rectangle, in pixels, and the data range that it shows."""

    x0: float
    y0: float
    width: float
    height: float
    low_x: float
    high_x: float
    low_y: float
    high_y: float

    def x(self, value: float) -> float:
        return self.x0 + self.width * (value - self.low_x) / ((self.high_x - self.low_x) or 1.0)

    def y(self, value: float) -> float:
        return self.y0 + self.height * (1 - (value - self.low_y) / ((self.high_y - self.low_y) or 1.0))

    def grid_y(self, values: Sequence[float], label: str, show: str = "") -> list[str]:
        """Horizontal grid lines with their values, and the axis label above them."""
        parts = [_text(0, self.y0 - 12, label, "axis")] if label else []
        for value in values:
            y = self.y(value)
            parts.append(_line(self.x0, y, self.x0 + self.width, y, "grid"))
            shown = percent(value) if show == "percent" else number(abs(value) if show == "abs" else value)
            parts.append(_text(self.x0 - 6, y + 4, shown, "tick", "end"))
        return parts

    def axis_x(self, values: Sequence[float], label: str) -> list[str]:
        """Values below the plot, and the axis label below them."""
        bottom = self.y0 + self.height
        parts = [_line(self.x0, bottom, self.x0 + self.width, bottom, "rule")]
        parts += [_text(self.x(value), bottom + 16, number(value), "tick", "middle") for value in values]
        parts.append(_text(self.x0 + self.width / 2, bottom + 33, label, "axis", "middle"))
        return parts


def legend(entries: Sequence[tuple[str, str]], x: float, y: float) -> str:
    """Swatches in a row. `entries` are (css class, text)."""
    parts: list[str] = []
    for css, text in entries:
        parts.append(f'<rect x="{_at(x)}" y="{_at(y - 9)}" width="10" height="10" rx="2" class="{css}"/>')
        parts.append(_text(x + 15, y, text, "tick"))
        x += 15 + 6.6 * len(text) + 18
    return "".join(parts)


# -------------------------------------------------------------------------------------------- charts


@dataclass(frozen=True)
class Bar:
    """A bar: the text below it, its height, and its tooltip."""

    label: str
    value: float
    title: str
    css: str = "f0"


def bars(
    data: Sequence[Bar], *, label: str, x_label: str, y_label: str, width: float = 520, height: float = 240
) -> Markup:
    """A histogram whose bars have labels of their own; labels are thinned where they would touch."""
    top = 1.04 * max((bar.value for bar in data), default=0) or 1
    frame = _Frame(52, 30, width - 60, height - 74, 0, max(len(data), 1), 0, top)
    parts = frame.grid_y(ticks(0, top, 4), y_label) + frame.axis_x([], x_label)
    every = max(1, math.ceil(len(data) * 7 * max((len(bar.label) for bar in data), default=1) / frame.width))
    for index, bar in enumerate(data):
        x, y = frame.x(index), frame.y(bar.value)
        step = frame.width / len(data)
        gap = min(3.0, step * 0.12)
        parts.append(_rect(x + gap, y, step - 2 * gap, frame.y(0) - y, bar.css, bar.title))
        if index % every == 0:
            parts.append(_text(x + step / 2, frame.y(0) + 16, bar.label, "tick", "middle"))
    return _svg(width, height, label, parts)


def mirror_histogram(
    edges: Sequence[float],
    upper: Sequence[int],
    lower: Sequence[int],
    *,
    names: tuple[str, str],
    label: str,
    x_label: str,
    y_label: str,
    width: float = 1040,
    height: float = 300,
) -> Markup:
    """Two histograms over the same bins, one upwards and one downwards; `edges` has one value more."""
    top, bottom = 1.04 * max(upper, default=0) or 1, 1.04 * max(lower, default=0) or 1
    frame = _Frame(60, 42, width - 70, height - 86, edges[0], edges[-1], -bottom, top)
    marks = ticks(-bottom, top, 6)
    parts = frame.grid_y(marks, y_label, "abs") + frame.axis_x(ticks(edges[0], edges[-1], 8), x_label)
    for index, (up, down) in enumerate(zip(upper, lower, strict=True)):
        left, right = frame.x(edges[index]), frame.x(edges[index + 1])
        span = f"{number(edges[index])} to {number(edges[index + 1])}"
        for count, css, name in ((up, "f0", names[0]), (down, "f1", names[1])):
            if count:
                y0, y1 = frame.y(0), frame.y(count if css == "f0" else -count)
                title = f"{span}: {number(count)} {name}"
                parts.append(_rect(left + 0.6, min(y0, y1), right - left - 1.2, abs(y1 - y0), css, title))
    parts.append(_line(frame.x0, frame.y(0), frame.x0 + frame.width, frame.y(0), "rule"))
    parts.append(legend([("f0", f"{names[0]} (upwards)"), ("f1", f"{names[1]} (downwards)")], 300, 14))
    return _svg(width, height, label, parts)


@dataclass(frozen=True)
class Series:
    """A named line of (x, y) points, in the order of x."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0


def lines(
    series: Sequence[Series],
    *,
    label: str,
    x_label: str,
    y_label: str,
    width: float = 510,
    height: float = 270,
) -> Markup:
    """Lines over a common range; colours from the seventh on are dashed."""
    xs = [x for line in series for x, _ in line.points] or [0.0]
    ys = [y for line in series for _, y in line.points] or [0.0]
    pad = (max(ys) - min(ys)) * 0.05 or abs(max(ys)) * 0.05 or 0.5
    floor = 0.0 if 0 <= min(ys) < pad * 8 else min(ys) - pad
    frame = _Frame(60, 46, width - 76, height - 92, min(xs), max(xs), floor, max(ys) + pad)
    parts = frame.grid_y(ticks(floor, max(ys) + pad, 5), y_label) + frame.axis_x(
        ticks(min(xs), max(xs), 6), x_label
    )
    for line in series:
        colour = line.colour % SERIES_COLOURS
        css = f"s{colour}" + (" dashed" if line.colour >= SERIES_COLOURS else "")
        path = " ".join(f"{_at(frame.x(x))},{_at(frame.y(y))}" for x, y in line.points)
        last_x, last_y = line.points[-1]
        title = f"{line.name}: {number(last_y)} at {x_label} {number(last_x)}"
        parts.append(f'<polyline points="{path}" class="{css}">{_title(title)}</polyline>')
        parts.append(
            f'<circle cx="{_at(frame.x(last_x))}" cy="{_at(frame.y(last_y))}" r="3" '
            f'class="f{colour}">{_title(title)}</circle>'
        )
    entries = [(f"f{line.colour % SERIES_COLOURS}", _short(line.name, 24)) for line in series]
    return _svg(width, height, label, [*parts, legend(entries, 60, 14)])


@dataclass(frozen=True)
class Curve:
    """A named curve over steps; with `dots` every value is marked, for values that are few."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dots: bool = False


@dataclass(frozen=True)
class Mark:
    """A point that leads to something in the page: `step` is what it stands for, `href` where that is."""

    x: float
    y: float
    step: int
    href: str
    title: str


def curves(
    data: Sequence[Curve],
    *,
    label: str,
    shares: bool = False,
    level: tuple[str, float] | None = None,
    marks: Sequence[Mark] = (),
    width: float = 336,
) -> Markup:
    """Curves over steps for a narrow column.

    Args:
        shares: the values are shares, shown in per cent.
        level: name and height of a dashed line across.
    """
    shown = [curve for curve in data if curve.points]
    entries = [(f"f{c.colour % SERIES_COLOURS}", _short(c.name, 24)) for c in shown]
    if level is not None:
        entries.append(("fx", f"{level[0]} {percent(level[1]) if shares else brief(level[1])}"))
    head, parts = _legend_rows(entries, 4, width)
    xs = [x for curve in shown for x, _ in curve.points] or [0.0]
    ys = [y for curve in shown for _, y in curve.points] + ([] if level is None else [level[1]])
    low, high = _range(ys or [0.0], shares)
    frame = _Frame(52, head + 8, width - 64, 150, min(xs), max(xs), low, high)
    parts += frame.grid_y(ticks(low, high, 6), "", "percent" if shares else "")
    parts += frame.axis_x(_whole(ticks(min(xs), max(xs), 5)), "step")
    if level is not None:
        y = frame.y(level[1])
        parts.append(
            f'<line x1="{_at(frame.x0)}" y1="{_at(y)}" x2="{_at(frame.x0 + frame.width)}" y2="{_at(y)}" '
            f'class="sx dashed">{_title(f"{level[0]}: {brief(level[1])}")}</line>'
        )
    for curve in shown:
        parts += _curve(frame, curve, shares)
    parts += [_mark(frame, mark) for mark in marks]
    return _svg(width, frame.y0 + frame.height + 40, label, parts)


def _curve(frame: _Frame, curve: Curve, shares: bool) -> list[str]:
    show = percent if shares else number
    colour = curve.colour % SERIES_COLOURS
    css = (
        f"s{colour}" + (" dashed" if curve.colour >= SERIES_COLOURS else "") + ("" if curve.dots else " thin")
    )
    path = " ".join(f"{_at(frame.x(x))},{_at(frame.y(y))}" for x, y in curve.points)
    last_x, last_y = curve.points[-1]
    title = _title(f"{curve.name}: {show(last_y)} at step {number(last_x)}")
    parts = [f'<polyline points="{path}" class="{css}">{title}</polyline>']
    for x, y in curve.points if curve.dots else curve.points[-1:]:
        title = _title(f"{curve.name}: {show(y)} at step {number(x)}")
        parts.append(
            f'<circle cx="{_at(frame.x(x))}" cy="{_at(frame.y(y))}" r="3" class="f{colour}">{title}</circle>'
        )
    return parts


@dataclass(frozen=True)
class Stretch:
    """A stretch of a training: means of two measures over its steps."""

    first: int
    last: int
    x: float
    y: float


def trail(
    data: Sequence[Stretch],
    checks: Sequence[Stretch] = (),
    *,
    label: str,
    x_label: str,
    shares: bool = False,
    marks: Sequence[Mark] = (),
    width: float = 336,
) -> Markup:
    """One measure against accuracy, from the first steps (light) to the last (dark), joined in their order.

    Args:
        checks: the same of the validation questions.
        shares: the measure is a share, shown in per cent.
    """
    everything = [*data, *checks]
    entries = [("f0", "training, light to dark")] if data else []
    head, parts = _legend_rows(entries + ([("f1", "validation")] if checks else []), 4, width)
    xs = [p.x for p in everything] + [mark.x for mark in marks] or [0.0]
    ys = [p.y for p in everything] + [mark.y for mark in marks] or [0.0]
    left, right = _range(xs, shares)
    low, high = _range(ys, True)
    frame = _Frame(52, head + 26, width - 64, 190, left, right, low, high)
    parts += frame.grid_y(ticks(low, high, 6), "accuracy", "percent")
    parts += frame.axis_x([], x_label)
    for value in ticks(left, right, 4):
        shown = percent(value) if shares else number(value)
        parts.append(_text(frame.x(value), frame.y0 + frame.height + 16, shown, "tick", "middle"))
    for points, name, colour in ((data, "training", 0), (checks, "validation", 1)):
        parts += _trail(frame, points, name, colour, x_label, percent if shares else number)
    parts += [_mark(frame, mark) for mark in marks]
    return _svg(width, frame.y0 + frame.height + 40, label, parts)


def _trail(
    frame: _Frame,
    points: Sequence[Stretch],
    name: str,
    colour: int,
    x_label: str,
    show: Callable[[float], str],
) -> list[str]:
    if not points:
        return []
    path = " ".join(f"{_at(frame.x(p.x))},{_at(frame.y(p.y))}" for p in points)
    parts = [f'<polyline points="{path}" class="s{colour} faint"/>']
    for index, p in enumerate(points):
        opacity = 0.25 + 0.75 * (index + 1) / len(points)
        steps = f"step {p.first:,}" if p.first == p.last else f"steps {p.first:,} to {p.last:,}"
        title = _title(f"{name}, {steps}: accuracy {percent(p.y)}, {x_label} {show(p.x)}")
        parts.append(
            f'<circle cx="{_at(frame.x(p.x))}" cy="{_at(frame.y(p.y))}" r="{4.5 if colour else 3.5}" '
            f'fill-opacity="{opacity:.2f}" class="f{colour}">{title}</circle>'
        )
    return parts


def _mark(frame: _Frame, mark: Mark) -> str:
    # Not in the order of the Tab key: a menu offers the same steps once.
    at = f'cx="{_at(frame.x(mark.x))}" cy="{_at(frame.y(mark.y))}"'
    return (
        f'<a href="#{escape(mark.href)}" class="mark" tabindex="-1" data-step="{mark.step}">{_title(mark.title)}'
        f'<circle {at} r="9" class="hit"/><circle {at} r="4" class="dot"/></a>'
    )


def _range(values: Sequence[float], shares: bool) -> tuple[float, float]:
    """What an axis shows: a little more than the values, from zero where that is near; shares end at 1."""
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 0.5
    top = min(high + pad, max(1.0, high)) if shares else high + pad
    return (0.0 if 0 <= low < pad * 8 else low - pad), top


def _whole(values: Sequence[float]) -> list[float]:
    """Steps are counted: there is none between two."""
    return [value for value in values if float(value).is_integer()]


def _legend_rows(entries: Sequence[tuple[str, str]], x: float, width: float) -> tuple[float, list[str]]:
    """A legend that goes on below where a row is full: its height and its parts."""
    rows: list[list[tuple[str, str]]] = [[]]
    taken = x
    for entry in entries:
        need = 33 + 6.6 * len(entry[1])
        if rows[-1] and taken + need - 18 > width:
            rows.append([])
            taken = x
        rows[-1].append(entry)
        taken += need
    return 17.0 * len(rows), [legend(row, x, 12 + 17 * index) for index, row in enumerate(rows)]


@dataclass(frozen=True)
class Interval:
    """A value with its interval (None where there is none), as shares."""

    label: str
    value: float
    low: float | None
    high: float | None
    colour: int = 0


def intervals(data: Sequence[Interval], *, label: str, x_label: str, width: float = 1040) -> Markup:
    """A dot with its interval for every row, over a common axis from zero."""
    top = max((row.high if row.high is not None else row.value for row in data), default=1.0)
    scale = min(1.0, max(0.05, math.ceil(top * 20 + 0.2) / 20))
    row_height = 30
    frame = _Frame(190, 6, width - 350, row_height * len(data), 0, scale, 0, 1)
    bottom = frame.y0 + frame.height
    parts: list[str] = []
    for value in ticks(0, scale, 6):
        parts.append(_line(frame.x(value), frame.y0, frame.x(value), bottom, "grid"))
        parts.append(_text(frame.x(value), bottom + 16, f"{100 * value:g}", "tick", "middle"))
    for index, row in enumerate(data):
        y, colour = frame.y0 + row_height * (index + 0.5), row.colour % SERIES_COLOURS
        bounds = ""
        if row.low is not None and row.high is not None:
            bounds = f"[{100 * row.low:.1f}, {100 * row.high:.1f}]"
            parts.append(_line(frame.x(row.low), y, frame.x(row.high), y, f"s{colour} thick"))
            for end in (row.low, row.high):
                parts.append(_line(frame.x(end), y - 5, frame.x(end), y + 5, f"s{colour}"))
        parts.append(_text(frame.x0 - 12, y + 4, _short(row.label, 26), "label", "end"))
        parts.append(
            f'<circle cx="{_at(frame.x(row.value))}" cy="{_at(y)}" r="5.5" class="f{colour}">'
            f"{_title(f'{row.label}: {percent(row.value)} {bounds}')}</circle>"
        )
        parts.append(
            f'<text x="{_at(frame.x0 + frame.width + 14)}" y="{_at(y + 4)}" class="value">{percent(row.value)}'
            f'<tspan class="note" dx="8">{bounds}</tspan></text>'
        )
    parts.append(_text(frame.x0 + frame.width / 2, bottom + 34, x_label, "axis", "middle"))
    return _svg(width, bottom + 42, label, parts)


@dataclass(frozen=True)
class Step:
    """A row of a funnel: a count, and what its share is a share of."""

    label: str
    count: int
    note: str
    css: str = "f0"


def funnel(data: Sequence[Step], *, label: str, width: float = 1040) -> Markup:
    """Horizontal bars to one scale, each with its count and a note."""
    top = max((step.count for step in data), default=0) or 1
    row_height, left, room = 30, 190, width - 190 - 330
    parts: list[str] = []
    for index, step in enumerate(data):
        y = row_height * index
        length = max(room * step.count / top, 1.5 if step.count else 0)
        parts.append(_text(left - 12, y + 19, step.label, "label", "end"))
        parts.append(
            _rect(left, y + 5, length, row_height - 10, step.css, f"{step.label}: {number(step.count)}")
        )
        parts.append(
            f'<text x="{_at(left + length + 10)}" y="{y + 19}" class="value">{number(step.count)}'
            f'<tspan class="note" dx="8">{escape(step.note)}</tspan></text>'
        )
    return _svg(width, row_height * len(data), label, parts)


def meter(share: float | None, *, title: str = "", part: float = 0.0, css: str = "f0") -> Markup:
    """A small bar for a table's cell: `share` of the full length, the first `part` of it darker."""
    full = 110.0
    length = full * min(max(share or 0.0, 0.0), 1.0)
    dark = full * min(max(part, 0.0), 1.0)
    return Markup(  # titles are escaped by `_title`
        f'<svg class="meter" viewBox="0 0 {_at(full)} 10" width="{_at(full)}" height="10" aria-hidden="true">'
        f'<rect width="{_at(full)}" height="10" class="track"/>'
        f'<rect width="{_at(length)}" height="10" class="{css}{" soft" if part else ""}">{_title(title)}</rect>'
        f'<rect width="{_at(dark)}" height="10" class="{css}"/></svg>'
    )
