"""Play a demo and keep what it prints as a picture in docs/assets: `demo_picture.py demo` or `demo-custody`.

Whoever draws one gives HOME and XDG_DATA_HOME folders of their own, so that it shows what a newcomer sees.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from blindai.demo import story
from blindai.demo.custody import story as custody

# By the target of the Makefile that tells it, which is also what the picture is called.
STORIES: dict[str, Callable[[Console], object]] = {"demo": story.tell, "demo-custody": custody.tell}

ASSETS = Path(__file__).parents[1] / "docs" / "assets"
WIDTH = 104

# Fonts of the reader's own machine: rich's template would fetch one from the network.
FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""

# Readable on the light and on the dark page alike: the picture brings its own background.
THEME = TerminalTheme(
    (22, 27, 34),
    (225, 228, 232),
    [
        (22, 27, 34),
        (248, 81, 73),
        (63, 185, 80),
        (210, 153, 34),
        (88, 166, 255),
        (188, 140, 255),
        (57, 197, 207),
        (201, 209, 217),
    ],
)


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in STORIES:
        raise SystemExit(f"usage: demo_picture.py {' | '.join(STORIES)}")
    name = sys.argv[1]
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True, color_system="truecolor")
        with patch("blindai.demo.programs.programs", lambda: ("blindai", "python")):
            STORIES[name](console)
    svg = console.export_svg(title=f"make {name}", theme=THEME, code_format=FORMAT, unique_id=name)
    picture = ASSETS / f"{name}.svg"
    picture.write_text(re.sub(r"[ \t]+\n", "\n", svg), encoding="utf-8")
    print(f"{picture}, {picture.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
