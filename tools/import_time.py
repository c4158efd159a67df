"""Show how long `import blindai` takes in a new process, and which packages cost most (`make import-time`)."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time

RUNS = 7
GOAL_SECONDS = 0.3
ROW = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|(\s+)(\S+)")


def seconds(code: str) -> float:
    """Median wall time of a new interpreter that runs `code`."""
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def packages() -> dict[str, int]:
    """Microseconds that each top-level package took by itself."""
    log = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import blindai"], capture_output=True, text=True, check=True
    ).stderr
    found: dict[str, int] = {}
    for own, _, _, name in ROW.findall(log):
        package = name.partition(".")[0]
        found[package] = found.get(package, 0) + int(own)
    return found


def main() -> None:
    bare, full = seconds("pass"), seconds("import blindai")
    print(f"import blindai: {full - bare:.3f} s over a bare interpreter ({bare:.3f} s); the goal is {GOAL_SECONDS} s")
    for package, microseconds in sorted(packages().items(), key=lambda item: -item[1])[:8]:
        print(f"  {microseconds / 1000:7.1f} ms  {package}")


if __name__ == "__main__":
    main()
