"""Interval charts as SVG, for light and dark pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from benchmarks.report.chart import WIDTH, svg

if TYPE_CHECKING:
    from collections.abc import Sequence

_LABEL_WIDTH, _VALUE_WIDTH = 250, 60
_ROW_HEIGHT, _TOP, _BOTTOM = 30, 44, 30
_STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #1f2328; }
    .title { font-weight: 600; }
    .axis { stroke: #8c959f; stroke-width: 1; } .ceiling { stroke: #8c959f; stroke-dasharray: 4 3; }
    .range { stroke: #0b6bcb; stroke-width: 2; } .point { fill: #0b6bcb; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .range { stroke: #58a6ff; } .point { fill: #58a6ff; }
    }
"""


@dataclass(frozen=True, slots=True)
class Interval:
    label: str
    value: float
    low: float
    high: float


def interval_chart(title: str, rows: Sequence[Interval], ceiling: float | None) -> str:
    """One line per row, on a scale from zero, or the lowest bound if negative, to one.

    Raises `ValueError` without rows.
    """
    if not rows:
        raise ValueError("a chart needs rows")
    lowest = min(0.0, *(row.low for row in rows))
    scale = (WIDTH - _LABEL_WIDTH - _VALUE_WIDTH) / (1 - lowest)

    def at(value: float) -> float:
        return round(_LABEL_WIDTH + scale * (value - lowest), 1)

    bottom = _TOP + _ROW_HEIGHT * len(rows)
    parts = [
        f'  <line class="axis" x1="{at(0)}" y1="{_TOP - 8}" x2="{at(0)}" y2="{bottom}"/>',
        f'  <text x="{at(0)}" y="{bottom + 18}" text-anchor="middle">0</text>',
    ]
    if ceiling is not None:
        x = at(ceiling)
        parts += [
            f'  <line class="ceiling" x1="{x}" y1="{_TOP - 8}" x2="{x}" y2="{bottom}"/>',
            f'  <text x="{x}" y="{bottom + 18}" text-anchor="middle">ceiling {ceiling:.2f}</text>',
        ]
    for number, row in enumerate(rows):
        y = _TOP + _ROW_HEIGHT * number + 8
        parts += [
            f'  <text x="{_LABEL_WIDTH - 10}" y="{y + 4}" text-anchor="end">{escape(row.label)}</text>',
            f'  <line class="range" x1="{at(row.low)}" y1="{y}" x2="{at(row.high)}" y2="{y}"/>',
            f'  <circle class="point" cx="{at(row.value)}" cy="{y}" r="4"/>',
            f'  <text x="{at(row.high) + 8}" y="{y + 4}">{row.value:.2f}</text>',
        ]
    return svg(title, bottom + _BOTTOM, _STYLE, parts)
