"""The fault campaign: hundreds of histories of leases, and a count of what must never happen.

    python tools/campaign.py --histories 300 --seed 7

First somebody is killed at every step of the protocol, in turn the enclave and the custodian. Then come histories by
chance, half of them on SQLite with one process of the custodian, half on PostgreSQL with two: real processes and a line
that cuts, delays, repeats and goes silent. Last, histories without processes, many more and faster, with forks of
enclaves, restored messages and clocks that jump. What chance decides follows from the seed; what the processes make of
it also depends on how fast they are.

Exits with 1 if anything was overspent or lost.
"""

from __future__ import annotations

import argparse
import logging
import random
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis.stateful import run_state_machine_as_test

import lease_histories
from custodian_processes import nursed
from fault_histories import FAULTS, WRONG, History, Site, killed_at, steps
from lease_world import World
from postgresql import PostgreSQL


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=300, help="between processes, both databases together")
    parser.add_argument("--examples", type=int, default=1000, help="without processes, on each database")
    parser.add_argument("--length", type=int, default=4, help="of a history between processes: things that happen")
    parser.add_argument("--seed", type=int, default=None, help="what chance decides; printed in any case")
    arguments = parser.parse_args()
    chosen = secrets.randbelow(2**32) if arguments.seed is None else arguments.seed
    print(f"seed {chosen}", flush=True)
    logging.getLogger("blindai").addHandler(logging.NullHandler())  # everything here is simulated, and nobody's data
    folder = Path(tempfile.mkdtemp(prefix="blindai-campaign-"))
    server = PostgreSQL()
    try:
        server.start()
        sites = [
            Site(folder / "sqlite", None, processes=1, chance=random.Random(f"{chosen} line 1")),
            Site(folder / "postgresql", server.create(), processes=2, chance=random.Random(f"{chosen} line 2")),
        ]
        findings = _between_processes(sites, chosen, arguments.histories, arguments.length)
        findings += _without_processes(folder, server, chosen, arguments.examples)
    finally:
        server.remove()
        shutil.rmtree(folder, ignore_errors=True)
    for finding in findings:
        print(finding)
    print(f"{'FAILED' if findings else 'passed'}: {len(findings)} findings, seed {chosen}")
    return 1 if findings else 0


def _between_processes(sites: list[Site], seed: int, histories: int, length: int) -> list[str]:
    begun = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(nursed())
        for site in sites:
            stack.enter_context(site)
        threads = [threading.Thread(target=_live, args=(site, seed, histories // len(sites), length)) for site in sites]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(f"between processes: {time.monotonic() - begun:.0f} s")
    _table({site.dialect: site.happened for site in sites})
    return [finding for site in sites for finding in site.findings]


def _live(site: Site, seed: int, histories: int, length: int) -> None:
    try:
        for step in steps():
            if not killed_at(site, step, random.Random(f"{seed} {step}")):
                site.found(WRONG, f"{step} was not reached")
        print(f"{site.dialect}: every step", flush=True)
        for number in range(histories):
            history = History(site, random.Random(f"{seed} {site.dialect} {number}"), str(number))
            history.live(length)
            history.end()
            if (number + 1) % 10 == 0:
                print(f"{site.dialect}: {number + 1} histories, {len(site.findings)} findings", flush=True)
    except Exception as error:
        # Whatever it is, the other site goes on, and this one has not passed.
        site.found(WRONG, f"the campaign itself failed: {error!r}")
        raise


def _without_processes(folder: Path, server: PostgreSQL, seed: int, examples: int) -> list[str]:
    begun = time.monotonic()
    happened: dict[str, Counter[str]] = {}
    findings: list[str] = []
    for url in (None, server.create()):
        world = World(folder, url)
        machine = lease_histories.histories(world)
        try:
            run_state_machine_as_test(
                seeded(seed)(machine),
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=50,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    phases=[Phase.generate],
                    database=None,
                ),
            )
        except AssertionError as error:
            findings.append(f"{world.database.dialect}: {error!r}")
        happened[world.database.dialect] = machine.happened
        world.close()
    print(f"without processes: {time.monotonic() - begun:.0f} s")
    _table(happened)
    return findings


def _table(happened: dict[str, Counter[str]]) -> None:
    rows = sorted({row for counts in happened.values() for row in counts}, key=_rank)
    print(f"{'':44}" + "".join(f"{name:>14}" for name in happened))
    for row in rows:
        print(f"  {row:42}" + "".join(f"{counts[row]:>14}" for counts in happened.values()))
    print(flush=True)


def _rank(row: str) -> tuple[int, str]:
    """What must not be comes first, and what was refused last."""
    return (0 if row in FAULTS else 2 if row.startswith("refused:") else 1), row


if __name__ == "__main__":
    sys.exit(main())
