"""A progress bar for uploads, and a word while a custodian is waited for; on a terminal only."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from blindai.client.model_file import ModelBody

Chunks: TypeAlias = Iterable[bytes | memoryview]

MIN_BYTES: Final = 1 << 20
"""A smaller upload is over before a bar could be read."""


@contextmanager
def upload_progress(body: ModelBody, label: str, *, enabled: bool | None = None) -> Iterator[Chunks]:
    """The chunks of `body`, counted on a bar on standard error while they are taken.

    Args:
        body: what is uploaded.
        label: what the bar calls it.
        enabled: True always shows the bar, False never; None shows it for more than `MIN_BYTES` on a terminal that can
            redraw a line (`TERM` other than `dumb`). With NO_COLOR set, it has no colours.
    """
    if enabled is None:
        enabled = body.content_length > MIN_BYTES and _can_redraw()
    if not enabled:
        yield _Chunks(body)
        return
    with _bar() as bar:
        yield _CountedChunks(body, bar, bar.add_task(label, total=body.content_length))


@contextmanager
def waiting_progress(words: str, *, enabled: bool | None = None) -> Iterator[None]:
    """Say what is waited for, and for how long already, on standard error until the block ends.

    Args:
        words: what is waited for.
        enabled: as in `upload_progress`.
    """
    if not (_can_redraw() if enabled is None else enabled):
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        shown.add_task(words, total=None)
        yield


class _Chunks:
    """Iterable more than once: a connection found dead before the first byte left is replaced by another."""

    def __init__(self, body: ModelBody) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes | memoryview]:
        return self._body.chunks()


class _CountedChunks:
    def __init__(self, body: ModelBody, bar: Progress, task: TaskID) -> None:
        self._body = body
        self._bar = bar
        self._task = task

    def __iter__(self) -> Iterator[bytes | memoryview]:
        self._bar.reset(self._task)
        for chunk in self._body.chunks():
            yield chunk
            # Asking for the next chunk says that this one is on its way.
            self._bar.advance(self._task, len(chunk))


def _bar() -> Progress:
    # Loaded only when there is a bar to show: rich takes longer to import than all of the client.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _can_redraw() -> bool:
    # Under pythonw on Windows there is no standard error at all.
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
