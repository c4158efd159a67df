"""All benchmarks (`make bench`): measures, judges the goals, and writes docs/benchmarks.md.

First two busy processes are held against one, until they get two cores or patience ends. Where they do not, before or
after, figures are printed but no goal is judged. `--quick` does everything a few times only, to show that it works, and
writes nothing unless told where.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import client
import connecting
import crowd
import metering
import sealing
import serving
import verifying
from machine import LEAST_SCALING, Placement, describe, quiet_scaling, spin_scaling
from peer import KSERVE, MLSERVER
from processes import enclave
from report import markdown, raw
from timing import FULL, QUICK

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few calls of everything; no figure means anything")
    parser.add_argument("--no-peers", action="store_true", help="install and measure no other model servers")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write benchmarks.md and benchmarks.json here")
    options = parser.parse_args()
    effort = QUICK if options.quick else FULL
    spin = 0.05 if options.quick else 1.0

    scaling = [spin_scaling(spin) if options.quick else quiet_scaling()]
    print(f"two busy processes against one: {scaling[0]:.2f} (at least {LEAST_SCALING} to judge)", flush=True)
    with enclave() as server:
        # First, while the code on disk is what the server measured: new interpreters hold it to that.
        importing = client.measure_cost(effort, server)
        tables = [
            serving.measure(effort, server, placement, peers=() if options.no_peers else (MLSERVER, KSERVE))
            for placement in Placement
        ]
        tables += [connecting.measure(effort, server, placement) for placement in Placement]
        tables += [client.measure(effort, server, placement) for placement in Placement]
        tables += [importing, verifying.measure(effort), verifying.measure_hostile(effort)]
    tables += crowd.measure(effort, peers=())
    tables += metering.measure(effort)
    tables += [sealing.measure(effort), sealing.measure_memory(effort)]
    scaling.append(spin_scaling(spin))
    conclusive = min(scaling) >= LEAST_SCALING and not options.quick

    machine = describe()
    page = markdown(machine, scaling, tables, conclusive=conclusive)
    print(page)
    figures = raw(machine, scaling, tables, conclusive=conclusive)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "benchmarks.md").write_text(page, "utf-8")
        (options.output / "benchmarks.json").write_text(figures, "utf-8")
    elif not options.quick:
        (ROOT / "docs" / "benchmarks.md").write_text(page, "utf-8")
        (ROOT / "benchmarks" / "results").mkdir(exist_ok=True)
        (ROOT / "benchmarks" / "results" / "benchmarks.json").write_text(figures, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
