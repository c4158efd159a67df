"""`blindai top`: what an enclave does just now, in the terminal."""

from __future__ import annotations

import contextlib
import re
import select
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from blindai.cli.console import err, out, print_json, reported
from blindai.cli.target import Json, KeyFile, PolicyFile, Simulation, connect
from blindai.errors import harmless

if TYPE_CHECKING:
    from blindai.client.connection import Connection
    from blindai.wire.metadata import ModelStatistics, StatisticsResponse

# One sample of the text format without a time: a name, labels, a value. Ours have no escapes in their labels.
_SAMPLE: Final = re.compile(r"^([a-z_]+)(?:\{(.*)\})? ([0-9.eE+-]+|\+Inf|NaN)$", re.MULTILINE)
_LABEL: Final = re.compile(r'([a-z_]+)="([^"\\]*)"')

_BAR_CELLS: Final = 12
_REFUSALS: Final = 5

# Lines that are not rows of the table of models.
_FRAME_LINES: Final = 9

Series = Mapping[tuple[str, tuple[str, ...]], float]


@dataclass(frozen=True, slots=True)
class Sample:
    """What the enclave told at one moment.

    Attributes:
        at: seconds of the monotonic clock.
        models: its `/v2/models/stats`.
        series: its `/metrics`, by name and values of labels.
    """

    at: float
    models: StatisticsResponse
    series: Series


def top(
    addr: Annotated[str | None, typer.Argument(metavar="ADDR", help="https://host:port; else as for --addr.")] = None,
    interval: Annotated[
        float, typer.Option("--interval", min=0.2, max=60, metavar="SECONDS", help="Time between two frames.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and leave.")] = False,
    policy: PolicyFile = None,
    simulation: Simulation = False,
    api_key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Attest the enclave, then show what it does: requests, models, memory, refusals. q or Ctrl-C ends it."""
    with reported(as_json=as_json), connect(addr, policy, api_key_file, simulation=simulation) as client:
        before = _sample(client)
        if once or as_json or not out.is_terminal:
            time.sleep(interval)
            fields = frame(before, _sample(client))
            if as_json:
                print_json(_about(client) | fields)
            else:
                out.print(_render(client, fields, rows=None), soft_wrap=False)
            return
        _watch(client, before, interval)


def parse_metrics(text: str) -> Series:
    """The samples of Prometheus' text format as our own server writes it, by name and values of labels.

    The values stand in the order of the labels' names.
    """
    return {
        (name, tuple(found for _, found in sorted(_LABEL.findall(labels)))): float(value)
        for name, labels, value in _SAMPLE.findall(text)
    }


def frame(before: Sample, now: Sample) -> dict[str, Any]:
    """What happened between two samples: rates a second, times in milliseconds, sizes in bytes."""
    seconds = max(now.at - before.at, 1e-9)
    earlier = {(model.name, model.version): model for model in before.models.model_stats}
    models = [_model(earlier.get((model.name, model.version)), model, seconds) for model in now.models.model_stats]
    models.sort(key=lambda model: (-model["requests_per_second"], model["name"], model["version"]))
    count = _grown(before, now, "blindai_inferences_total")
    return {
        "requests_per_second": round(count / seconds, 1),
        "failures_per_second": round(_grown(before, now, "blindai_inference_failures_total") / seconds, 1),
        "p50_ms_at_most": _median_ms(before, now),
        "queued": int(now.series.get(("blindai_runs_queued", ()), 0)),
        "memory_bytes": int(now.series.get(("blindai_memory_bytes", ("taken", "models")), 0)),
        "memory_limit_bytes": int(now.series.get(("blindai_memory_bytes", ("limit", "models")), 0)),
        "evictions": int(now.series.get(("blindai_evictions_total", ()), 0)),
        "crashes": int(now.series.get(("blindai_crashes_total", ()), 0)),
        "refusals": _refusals(now),
        "models": models,
    }


def _model(before: ModelStatistics | None, now: ModelStatistics, seconds: float) -> dict[str, Any]:
    stats, old = now.inference_stats, None if before is None else before.inference_stats
    if old is not None and old.success.count > stats.success.count:
        old = None  # the version was deleted and uploaded anew
    answered = stats.success.count - (old.success.count if old else 0)
    ns = stats.success.ns - (old.success.ns if old else 0)
    runs = now.execution_count - (before.execution_count if before is not None and old else 0)
    return {
        "name": now.name,
        "version": now.version,
        "state": now.state if now.resident or now.state != "READY" else "ON DISK",
        "engine": now.engine,
        "requests_per_second": round(answered / seconds, 1),
        "batch": round(answered / runs, 1) if runs > 0 else None,
        "average_ms": round(ns / answered / 1e6, 3) if answered else None,
        "failures": stats.fail.count,
        "memory_bytes": sum(usage.byte_size for usage in now.memory_usage),
    }


def _grown(before: Sample, now: Sample, name: str) -> float:
    return sum(max(0.0, value - before.series.get(key, 0.0)) for key, value in now.series.items() if key[0] == name)


def _median_ms(before: Sample, now: Sample) -> float | None:
    """The bound of the histogram below which half of the requests were answered; None where there were none."""
    name = "blindai_inference_seconds_bucket"
    grown = sorted(
        (float(labels[0]), value - before.series.get((found, labels), 0.0))
        for (found, labels), value in now.series.items()
        if found == name
    )
    if not grown or grown[-1][1] <= 0:
        return None
    bound = next(bound for bound, count in grown if count * 2 >= grown[-1][1])
    return None if bound == float("inf") else bound * 1000


def _refusals(now: Sample) -> dict[str, int]:
    counts: dict[str, int] = {}
    for (name, labels), value in now.series.items():
        if name in {"blindai_refusals_total", "blindai_inference_failures_total"} and labels:
            counts[labels[0]] = counts.get(labels[0], 0) + int(value)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _sample(client: Connection) -> Sample:
    return Sample(time.monotonic(), client.statistics(), parse_metrics(client.metrics()))


def _about(client: Connection) -> dict[str, Any]:
    claims = client.attestation.claims
    return {
        "address": client.address,
        "platform": "" if claims is None else str(claims.tee),
        "simulated": client.simulated,
    }


def _render(client: Connection, fields: dict[str, Any], *, rows: int | None) -> Group:
    about = _about(client)
    simulated = "[bold yellow]SIMULATED[/] " if about["simulated"] else ""
    taken, limit = fields["memory_bytes"], fields["memory_limit_bytes"]
    median = "-" if fields["p50_ms_at_most"] is None else f"<= {fields['p50_ms_at_most']:g} ms"
    lines = [
        f"[bold]blindai top[/]  {escape(about['address'])}  {simulated}{escape(about['platform'])}",
        (
            f"requests  {fields['requests_per_second']:g}/s  p50 {median}  "
            f"failures {fields['failures_per_second']:g}/s  queued {fields['queued']}"
        ),
        (
            f"memory    {_bar(taken, limit)} {_size(taken)} of {_size(limit)}  evictions {fields['evictions']}  "
            f"crashes {fields['crashes']}"
        ),
    ]
    refusals = [f"{escape(code)} {count}" for code, count in [*fields["refusals"].items()][:_REFUSALS]]
    lines.append("refusals  " + (", ".join(refusals) or "none"))
    return Group(*(Text.from_markup(line, overflow="ellipsis") for line in lines), _table(fields["models"], rows))


def _table(models: list[dict[str, Any]], rows: int | None) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("model", overflow="ellipsis", no_wrap=True, ratio=1)
    for title in ("state", "engine"):
        table.add_column(title, overflow="ellipsis", no_wrap=True, max_width=11)
    for title in ("req/s", "batch", "avg ms", "fail", "memory"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("share", no_wrap=True)
    most = sum(model["requests_per_second"] for model in models)
    shown = models if rows is None else models[: max(rows, 1)]
    for model in shown:
        table.add_row(
            harmless(f"{model['name']}:{model['version']}"),
            model["state"].lower(),
            harmless(model["engine"]),
            f"{model['requests_per_second']:g}",
            _or_dash(model["batch"]),
            _or_dash(model["average_ms"]),
            str(model["failures"]),
            _size(model["memory_bytes"]),
            _bar(model["requests_per_second"], most, cells=4),
        )
    if len(shown) < len(models):
        table.add_row(f"... {len(models) - len(shown)} more")
    return table


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _bar(part: float, whole: float, cells: int = _BAR_CELLS) -> str:
    full = 0 if whole <= 0 else min(cells, round(cells * part / whole))
    return "#" * full + "." * (cells - full)


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "K", "M", "G"):
        if value < 1024 or unit == "G":
            break
        value /= 1024
    return f"{value:.0f}{unit}" if value >= 10 or unit == "B" else f"{value:.1f}{unit}"


def _watch(client: Connection, before: Sample, interval: float) -> None:
    from rich.live import Live

    with _keys() as wait, Live(console=out, screen=True, auto_refresh=False) as live:
        while not wait(interval):
            now = _sample(client)
            shown = _render(client, frame(before, now), rows=out.height - _FRAME_LINES)
            live.update(shown, refresh=True)
            before = now
    err.print(f"left {escape(client.address)}")


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits for so many seconds, and says whether `q` was pressed meanwhile."""
    try:
        import termios
        import tty

        descriptor = sys.stdin.fileno()
        kept = termios.tcgetattr(descriptor)
    except (ImportError, OSError, ValueError, AttributeError):
        yield _sleep
        return
    except termios.error:  # standard input is no terminal
        yield _sleep
        return
    try:
        tty.setcbreak(descriptor)
        yield lambda seconds: _pressed(descriptor, seconds)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, kept)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _pressed(descriptor: int, seconds: float) -> bool:
    import os

    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0] and os.read(descriptor, 1) in {b"q", b"Q", b""}:
            return True
    return False
