"""Pictures of a report, as SVG that takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gemlet.tune.markup import Markup, joined, tag

WIDTH, HEIGHT = 460, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 30
_POINTS = 400

Points = Sequence[tuple[float, float]]
Place = Callable[[float, float], tuple[float, float]]
Interval = tuple[float | None, float | None, float | None]
"""An estimate and the ends of its interval, which may not be known."""


@dataclass(frozen=True)
class Line:
    """name: in the legend. look: a class of the style sheet. dots: whether each point is marked."""

    name: str
    points: Points
    look: str
    dots: bool = False


def line_chart(
    title: str, lines: Sequence[Line], mark: tuple[float, float, str] | None = None, from_zero: bool = False
) -> Markup:
    """Lines over training steps; `mark`: a point, and what is said of it."""
    lines = [Line(line.name, thinned(line.points), line.look, line.dots) for line in lines if line.points]
    points = [point for line in lines for point in line.points] + ([mark[:2]] if mark else [])
    if not points:
        return Markup("")
    xs, ys = _ends([x for x, _ in points]), _ends([y for _, y in points], 0.06)
    if from_zero:
        ys = (0.0, ys[1])

    def at(x: float, y: float) -> tuple[float, float]:
        along, up = (x - xs[0]) / (xs[1] - xs[0]), (y - ys[0]) / (ys[1] - ys[0])
        return _LEFT + along * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)

    parts = [*_axes(xs, ys, at)]
    for line in lines:
        places = [at(x, y) for x, y in line.points]
        if len(places) > 1:
            route = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(tag("polyline", points=route, class_=f"line {line.look}"))
        if line.dots or len(places) == 1:
            parts += [tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="3", class_=line.look) for x, y in places]
    if mark:
        x, y = at(*mark[:2])
        parts.append(tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="6", class_="ring"))
        side = ("end", -10) if x > WIDTH / 2 else ("start", 10)
        above = y - 10 if y > _TOP + 20 else y + 20
        parts.append(tag("text", mark[2], x=f"{x + side[1]:.1f}", y=f"{above:.1f}", text_anchor=side[0]))
    named = [line for line in lines if line.name]
    legend = [tag("span", tag("i", class_=f"key {line.look}"), line.name) for line in named]
    picture = tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)
    caption = tag("figcaption", tag("b", title), tag("span", *legend, class_="legend") if legend else None)
    return tag("figure", caption, picture, class_="chart")


def thinned(points: Points, most: int = _POINTS) -> Points:
    """At most so many points: each the mean of its neighbours."""
    if len(points) <= most:
        return points
    size = len(points) / most
    parts = [points[int(i * size) : int((i + 1) * size)] for i in range(most)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def smoothed(values: Sequence[float]) -> list[float]:
    """Exponentially weighted means of the values up to each, over about a twentieth of them all."""
    share, mean, weight = min(1.0, 2 / (1 + max(5, len(values) / 20))), 0.0, 0.0
    found = []
    for value in values:
        mean, weight = mean + share * (value - mean), weight + share * (1 - weight)
        found.append(mean / weight)
    return found


def _ends(values: Sequence[float], room: float = 0.0) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        return low - (abs(low) / 10 or 1.0), high + (abs(high) / 10 or 1.0)
    return low - room * (high - low), high + room * (high - low)


def _axes(xs: tuple[float, float], ys: tuple[float, float], at: Place) -> list[Markup]:
    parts = []
    for value in ticks(*ys, 4):
        y = at(xs[0], value)[1]
        parts.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
        parts.append(tag("text", short(value), x=_LEFT - 6, y=f"{y + 4:.1f}", text_anchor="end"))
    for value in ticks(*xs, 5):
        if value == int(value):
            x = at(value, ys[0])[0]
            parts.append(
                tag("text", short(value), x=f"{x:.1f}", y=HEIGHT - _BOTTOM + 18, text_anchor="middle")
            )
    return parts


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between two ends."""
    step = (high - low) / about
    power = 10.0 ** math.floor(math.log10(step))
    step = next(factor for factor in (1, 2, 5, 10) if factor * power >= step * 0.999) * power
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for an axis or a cell."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.001:
        return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    return f"{value:.4g}"


# --- Intervals


def interval_bars(rows: Sequence[tuple[str, Interval]], low: float, high: float) -> Markup:
    """Estimates with their intervals below each other on one scale; each with a class of the style sheet."""
    width, step = 200, 15
    parts = [tag("line", x1=4, x2=width - 4, y1=step * len(rows), y2=step * len(rows), class_="grid")]
    span = high - low or 1.0

    def at(value: float) -> str:
        return f"{4 + (min(max(value, low), high) - low) / span * (width - 8):.1f}"

    for number, (look, (estimate, below, above)) in enumerate(rows):
        y = number * step + step / 2
        if below is not None and above is not None:
            parts.append(tag("line", x1=at(below), x2=at(above), y1=y, y2=y, class_=f"whisker {look}"))
        if estimate is not None:
            parts.append(tag("circle", cx=at(estimate), cy=y, r=4, class_=look))
    size = f"0 0 {width} {step * len(rows) + 1}"
    return tag("svg", *parts, viewBox=size, class_="bars", aria_hidden="true")


def histogram(counts: Sequence[tuple[str, int]], title: str) -> Markup:
    """Counts as columns, each with what it counts below it."""
    if not counts or not (most := max(count for _, count in counts)):
        return Markup("")
    width = (WIDTH - 20) / len(counts)
    parts = []
    for number, (label, count) in enumerate(counts):
        x, tall = 10 + number * width, (HEIGHT - 64) * count / most
        top = HEIGHT - 34 - tall
        column = {"x": f"{x + 1:.1f}", "y": f"{top:.1f}", "width": f"{max(width - 2, 1):.1f}"}
        parts.append(
            tag("rect", tag("title", f"{label}: {count}"), **column, height=f"{tall:.1f}", class_="column")
        )
        middle = f"{x + width / 2:.1f}"
        if len(counts) <= 14 or number % 2 == 0:
            parts.append(tag("text", label, x=middle, y=HEIGHT - 18, text_anchor="middle"))
        if count:
            parts.append(tag("text", str(count), x=middle, y=f"{top - 5:.1f}", text_anchor="middle"))
    picture = tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)
    return tag("figure", tag("figcaption", tag("b", title)), picture, class_="chart")


def heat_map(values: Mapping[tuple[str, int], float], kinds: Sequence[str], layers: int) -> Markup:
    """One field for each matrix of each layer, the darker the larger."""
    most = max(values.values(), default=0.0) or 1.0
    left, size = 132, max(14, min(30, 720 // max(1, layers)))
    parts = []
    for row, kind in enumerate(kinds):
        parts.append(tag("text", kind, x=left - 8, y=row * size + size * 0.68, text_anchor="end"))
        for layer in range(layers):
            value = values.get((kind, layer))
            place = {"x": left + layer * size, "y": row * size, "width": size - 2, "height": size - 2}
            if value is None:
                parts.append(tag("rect", **place, class_="field"))
                continue
            said = tag("title", f"layer {layer}, {kind}: {short(100 * value)} %")
            strength = f"{0.06 + 0.94 * value / most:.3f}"
            parts.append(tag("rect", said, **place, rx=2, class_="heat", fill_opacity=strength))
    below = len(kinds) * size + 14
    every = max(1, math.ceil(26 / size), layers // 13)
    for layer in range(0, layers, every):
        x = left + layer * size + size / 2 - 1
        parts.append(tag("text", str(layer), x=f"{x:.1f}", y=below, text_anchor="middle"))
    view = f"0 0 {left + layers * size} {below + 6}"
    # One field is as large as another whatever the number of layers.
    style = f"width: {left + layers * size}px"
    label = "movement by layer and matrix"
    return tag("svg", joined(*parts), viewBox=view, style=style, role="img", aria_label=label, class_="map")
