"""Bar charts as SVG, for light and dark pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 720
_LABEL_WIDTH, _VALUE_WIDTH = 230, 60
_ROW_HEIGHT, _BAR_HEIGHT, _TOP, _BOTTOM = 26, 16, 38, 10
# Accent colour for our bars, grey for peers.
_STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #1f2328; }
    .title { font-weight: 600; }
    .ours { fill: #0b6bcb; } .peer { fill: #8c959f; } .range { stroke: #1f2328; stroke-width: 1.5; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .ours { fill: #58a6ff; } .peer { fill: #7d8590; } .range { stroke: #e6edf3; }
    }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its range over the repeats."""

    label: str
    value: float
    low: float
    high: float
    is_ours: bool


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars from zero, in the order given. Raises `ValueError` without bars."""
    if not bars:
        raise ValueError("a chart needs bars")
    scale = (WIDTH - _LABEL_WIDTH - _VALUE_WIDTH) / max(bar.high for bar in bars)
    height = _TOP + _ROW_HEIGHT * len(bars) + _BOTTOM
    parts = [part for row, bar in enumerate(bars) for part in _bar(bar, _TOP + _ROW_HEIGHT * row, scale)]
    return svg(title, height, _STYLE, parts)


def svg(title: str, height: int, style: str, parts: Sequence[str]) -> str:
    """A drawing of `WIDTH` with a title; `parts` are its lines."""
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">',
        f"  <style>{style}  </style>",
        f'  <text class="title" x="0" y="18">{escape(title)}</text>',
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _bar(bar: Bar, top: float, scale: float) -> list[str]:
    middle, base = top + _BAR_HEIGHT / 2, top + _BAR_HEIGHT - 3
    start, end, low, high = (
        round(_LABEL_WIDTH + scale * value, 1) for value in (0, bar.value, bar.low, bar.high)
    )
    kind, width = "ours" if bar.is_ours else "peer", round(end - start, 1)
    return [
        f'  <text x="{_LABEL_WIDTH - 10}" y="{base}" text-anchor="end">{escape(bar.label)}</text>',
        f'  <rect class="{kind}" x="{start}" y="{top}" width="{width}" height="{_BAR_HEIGHT}" rx="2"/>',
        f'  <line class="range" x1="{low}" y1="{middle}" x2="{high}" y2="{middle}"/>',
        f'  <text x="{max(end, high) + 8}" y="{base}">{bar.value:,.0f}</text>',
    ]
