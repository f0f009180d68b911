"""Capacity curves as an SVG file: p99 over the rate offered, a line for each setting, and the bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from onward.runners.tuning.trial import Setting, Trial

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 44, 52
_COLOURS = ("#0b6e4f", "#c0392b", "#2c5f9e", "#8e6c00", "#6b4fa0", "#555555")
_TICKS = (1, 2, 5)


def curves_svg(trials: Sequence[Trial], *, bound_ms: float, best: Setting | None, title: str) -> str:
    """The picture as text. Latencies are on a logarithmic axis; the setting that was taken has the thick line."""
    points = [point for trial in trials for point in trial.curve() if math.isfinite(point.p99_ms) and point.p99_ms > 0]
    most_per_s = max((point.offered_per_s for point in points), default=1.0)
    low_ms = min([point.p99_ms for point in points] + [bound_ms]) / 1.5
    high_ms = max([point.p99_ms for point in points] + [bound_ms]) * 1.5

    def x(per_s: float) -> float:
        return _LEFT + per_s / most_per_s * (_WIDTH - _LEFT - _RIGHT)

    def y(ms: float) -> float:
        share = math.log(ms / low_ms) / math.log(high_ms / low_ms)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for ms in _between(low_ms, high_ms):
        parts.append(_line(_LEFT, y(ms), _WIDTH - _RIGHT, y(ms), "#dddddd"))
        parts.append(f'<text x="{_LEFT - 6}" y="{y(ms) + 4:.1f}" text-anchor="end">{ms:g}</text>')
    for per_s in _even(most_per_s):
        parts.append(_line(x(per_s), _TOP, x(per_s), _HEIGHT - _BOTTOM, "#eeeeee"))
        parts.append(f'<text x="{x(per_s):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{per_s:g}</text>')
    parts.append(_line(_LEFT, y(bound_ms), _WIDTH - _RIGHT, y(bound_ms), "#000000", ' stroke-dasharray="6 4"'))
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{y(bound_ms) - 5:.1f}" text-anchor="end">{bound_ms:g} ms</text>')
    for number, trial in enumerate(trials):
        colour = _COLOURS[number % len(_COLOURS)]
        curve = [point for point in trial.curve() if math.isfinite(point.p99_ms) and point.p99_ms > 0]
        path = " ".join(f"{x(point.offered_per_s):.1f},{y(point.p99_ms):.1f}" for point in curve)
        width = 3 if trial.setting == best else 1.2
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        for point in curve:
            fill = "white" if point.failures else colour  # hollow: somebody was turned away
            centre = f'cx="{x(point.offered_per_s):.1f}" cy="{y(point.p99_ms):.1f}"'
            parts.append(f'<circle {centre} r="3.5" fill="{fill}" stroke="{colour}"/>')
        at = _TOP + 4 + 15 * number
        parts.append(f'<text x="{_LEFT + 10}" y="{at + 6}" fill="{colour}">{escape(str(trial.setting))}</text>')
    across, along = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(f'<text x="{across}" y="{_HEIGHT - 12}" text-anchor="middle">requests offered a second</text>')
    turned = f'transform="rotate(-90 14 {along})" text-anchor="middle"'
    parts.append(f'<text x="14" y="{along}" {turned}>p99, ms</text>')
    return "\n".join([*parts, "</svg>", ""])


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'


def _between(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, … from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [value for power in powers for tick in _TICKS if low <= (value := tick * 10.0**power) <= high]


def _even(most: float) -> list[float]:
    """Some four to eight even steps up to `most`."""
    step = 10.0 ** math.floor(math.log10(most))
    step = step / 5 if most / step < 2 else step / 2 if most / step < 4 else step
    return [step * count for count in range(int(most / step) + 1)]
