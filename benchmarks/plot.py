"""Bar charts as SVG: one colour for what is ours, another for what it is compared with; readable in light and dark."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Literal

_WIDTH, _LABELS, _VALUES = 860, 330, 80
_BAR, _STEP, _TOP = 18, 27, 46
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 15px }
.ours { fill: #0a7d55 } .peer { fill: #8c959f }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .ours { fill: #3fb98a } .peer { fill: #6e7681 } }
""".strip()


def bars(title: str, values: Mapping[str, float], *, best: Literal["least", "most"]) -> str:
    """A horizontal bar for each value, the best one on top; those whose names begin with BlindAI stand out."""
    ordered = sorted(values.items(), key=lambda item: item[1], reverse=best == "most")
    largest = max(values.values())
    room = _WIDTH - _LABELS - _VALUES
    height = _TOP + _STEP * len(ordered) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img"',
        f' aria-label="{escape(title)}"><style>{_STYLE}</style>',
        f'<text class="title" x="0" y="20">{escape(title)}</text>',
    ]
    for number, (name, value) in enumerate(ordered):
        top = _TOP + number * _STEP
        length = max(1.0, room * value / largest)
        kind = "ours" if name.startswith("BlindAI") else "peer"
        base = top + _BAR - 4
        parts += [
            f'<text x="{_LABELS - 8}" y="{base}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{kind}" x="{_LABELS}" y="{top}" width="{length:.1f}" height="{_BAR}" rx="2"/>',
            f'<text x="{_LABELS + length + 6:.1f}" y="{base}">{value:,.0f}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
