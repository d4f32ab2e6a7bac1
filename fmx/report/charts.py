"""The few charts of the reports, as inline SVG strings that need no script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#9a6700")
_WIDTH, _HEIGHT = 460, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 24, 36


def lines(xs: Sequence[float], series: Mapping[str, Sequence[float]], y_label: str, x_label: str, most: float = math.inf) -> Markup:
    """Draw one line a series over common x values; `most` is the largest value that y can have."""
    values = [value for ys in series.values() for value in ys if math.isfinite(value)]
    low, high = _bounds(values, most)
    x_low, x_high = (min(xs), max(xs)) if len(set(xs)) > 1 else (xs[0] - 1, xs[0] + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [_axes(low, high, y_label, x_label)]
    for x in dict.fromkeys((xs[0], xs[len(xs) // 2], xs[-1])):
        parts.append(_text(place(x, low)[0], _HEIGHT - _BOTTOM + 15, f"{x:g}", "middle"))
    for i, (name, ys) in enumerate(series.items()):
        placed, colour = [place(x, y) for x, y in zip(xs, ys, strict=True)], COLOURS[i % len(COLOURS)]
        points = " ".join(f"{left:.1f},{top:.1f}" for left, top in placed)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{left:.1f}" cy="{top:.1f}" r="2.5" fill="{colour}"/>' for left, top in placed]
        parts.append(_text(_WIDTH - _RIGHT, _TOP - 8 + 14 * i, name, "end", colour))
    return _svg(_WIDTH, _HEIGHT, parts, f"{y_label} by {x_label}")


def bars(values: Mapping[str, float], title: str, unit: str = "") -> Markup:
    """Draw one horizontal bar a value, with the number behind it."""
    longest = max([*values.values(), 1e-12])
    parts = [_text(0, 14, title, "start")]
    for i, (name, value) in enumerate(values.items()):
        y = 24 + 26 * i
        width = max(1.0, 250 * value / longest)
        parts += [
            _text(90, y + 14, name, "end"),
            f'<rect x="98" y="{y}" width="{width:.1f}" height="18" rx="2" fill="{COLOURS[i % len(COLOURS)]}"/>',
            _text(104 + width, y + 14, f"{value:,.3g} {unit}".rstrip(), "start"),
        ]
    return _svg(_WIDTH, 30 + 26 * len(values), parts, title)


def intervals(values: Mapping[str, tuple[float, float, float]], title: str) -> Markup:
    """Draw one interval a name from shares (low, value, high), as percentages on a common scale."""
    low, high = min(value[0] for value in values.values()), max(value[2] for value in values.values())
    room = (high - low) * 0.1 or 0.01
    low, high = low - room, high + room

    def place(share: float) -> float:
        return 98 + 250 * (share - low) / (high - low)

    parts = [_text(0, 14, title, "start")]
    for i, (name, (start, value, end)) in enumerate(values.items()):
        y, colour = 33 + 26 * i, COLOURS[i % len(COLOURS)]
        parts += [
            _text(90, y + 4, name, "end"),
            f'<line x1="{place(start):.1f}" x2="{place(end):.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3"/>',
            f'<circle cx="{place(value):.1f}" cy="{y}" r="5" fill="{colour}"/>',
            _text(360, y + 4, f"{100 * value:.2f} %", "start"),
        ]
    return _svg(_WIDTH, 30 + 26 * len(values), parts, title)


def front(values: Mapping[str, tuple[float, float, float]], x_label: str, y_label: str) -> Markup:
    """Draw each name as a circle at (x, y), its area growing with the third value; those that no other beats in all three are darker."""
    xs, ys, sizes = zip(*values.values(), strict=True)
    low, high = _bounds(ys, 100.0)
    x_high = max(xs) * 1.15

    def place(x: float, y: float) -> tuple[float, float]:
        left = _LEFT + x / x_high * (_WIDTH - _LEFT - _RIGHT)
        return left, _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_axes(low, high, y_label, x_label)]
    for tick in range(5):
        parts.append(_text(place(x_high * tick / 4, low)[0], _HEIGHT - _BOTTOM + 15, f"{x_high * tick / 4:.3g}", "middle"))
    for i, (name, (x, y, size)) in enumerate(values.items()):
        left, top = place(x, y)
        radius = 4 + 10 * math.sqrt(size / max(sizes))
        beaten = any(other[0] <= x and other[1] >= y and other[2] <= size and other != (x, y, size) for other in values.values())
        opacity = 0.25 if beaten else 0.7
        parts.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{radius:.1f}" fill="{COLOURS[i % len(COLOURS)]}" fill-opacity="{opacity}"/>')
        parts.append(_text(left, top - radius - 4, f"{name}, {size:.3g} MB", "middle"))
    return _svg(_WIDTH, _HEIGHT, parts, f"{y_label} by {x_label}")


def matrix(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """Draw a confusion matrix: true class down, predicted class across; shade is the share of the true class."""
    n = len(names)
    cell = max(3.0, min(34.0, 560 / n))
    labelled = cell >= 12
    margin = 26 + 6 * max(len(_short(name)) for name in names) if labelled else 20
    parts = [_text(margin + n * cell / 2, 12, "predicted", "middle")]
    for i, row in enumerate(counts):
        total = max(1, sum(row))
        if labelled:
            parts.append(_text(margin - 6, margin + (i + 0.65) * cell, _short(names[i]), "end"))
            x = margin + (i + 0.65) * cell
            parts.append(f'<g transform="rotate(-60 {x:.1f} {margin - 6})">{_text(x, margin - 6, _short(names[i]), "start")}</g>')
        for j, count in enumerate(row):
            if not count:
                continue
            share, colour = count / total, "31,111,235" if i == j else "209,36,47"
            x, y = margin + j * cell, margin + i * cell
            title = f"{names[i]} taken for {names[j]}: {count}"
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell - 1:.1f}" height="{cell - 1:.1f}" '
                f'fill="rgba({colour},{0.15 + 0.85 * share:.2f})"><title>{escape(title)}</title></rect>'
            )
            if cell >= 22:
                parts.append(_text(x + cell / 2, y + cell * 0.65, str(count), "middle", "#fff" if share > 0.5 else "#1f2328"))
    side = margin + n * cell + 10
    return _svg(side, side, parts, "confusion matrix")


def _short(name: str) -> str:
    return name if len(name) <= 14 else name[:13] + "…"


def _bounds(values: Sequence[float], most: float) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low < room else low - room), min(high + room, max(most, low + room))


def _axes(low: float, high: float, y_label: str, x_label: str) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [_text(4, 12, y_label, "start"), _text((_LEFT + right) / 2, _HEIGHT - 4, x_label, "middle")]
    for tick in range(5):
        value = low + (high - low) * tick / 4
        y = bottom - (bottom - _TOP) * tick / 4
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#d0d7de"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{value:.3g}", "end"))
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#57606a") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="11" fill="{colour}">{escape(text)}</text>'


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> Markup:
    """Every text in the parts went through `escape`."""
    return Markup(
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" aria-label="{escape(label)}" '
        f'font-family="system-ui, sans-serif">{"".join(parts)}</svg>'
    )
