"""Programs of a story, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, Self, TypeVar, cast

import msgspec

import blindai
from blindai.demo.enclaves import announced, stop
from blindai.errors import Unavailable

T = TypeVar("T")

# Longer than anything in a story takes, on a machine that is busy.
PATIENCE_SECONDS: Final = 30.0

_POLL_SECONDS: Final = 0.02


class Program:
    """`blindai` in a process of its own, which says where it listens and writes its log to a file.

    Attributes:
        announcement: what it said of itself when it was ready.
        log: the file.
    """

    def __init__(self, arguments: Sequence[str], log: Path, *, package_parent: Path | None = None) -> None:
        """Start it, and wait until it listens.

        Args:
            arguments: of the program, `--json` among them.
            log: where its log goes; lines of an earlier process stay.
            package_parent: the folder that holds the `blindai` package to run; by default the one that is running.

        Raises:
            Unavailable: `unavailable.start`.
        """
        self.log = log
        # Lines of processes before this one are not its own.
        self._began = log.stat().st_size if log.exists() else 0
        with log.open("ab") as errors:
            self._process = start(["-m", "blindai", *arguments], errors, package_parent)
        try:
            self.announcement: dict[str, Any] = announced(cast("IO[str]", self._process.stdout), str(log))
        except BaseException:
            self.stop()
            raise

    @property
    def id(self) -> int:
        """The process's id."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it in good order."""
        stop(self._process)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        self._process.kill()
        stop(self._process)

    def mark(self) -> int:
        """Where its log ends now."""
        return self.log.stat().st_size

    def lines(self, since: int = 0) -> Iterator[dict[str, Any]]:
        """What it has logged behind a mark."""
        with self.log.open("rb") as file:
            file.seek(max(since, self._began))
            for line in file:
                if line.startswith(b"{") and line.endswith(b"}\n"):
                    yield msgspec.json.decode(line)

    def logged(self, since: int = 0, **fields: Any) -> dict[str, Any]:
        """The first line behind a mark that has these fields, once it is there.

        Raises:
            Unavailable: `unavailable.log`, it did not come.
        """

        def found() -> dict[str, Any] | None:
            return next((line for line in self.lines(since) if fields.items() <= line.items()), None)

        try:
            return until(found, f"a line {fields} in the log")
        except Unavailable as error:
            said = sorted({str(line["code"]) for line in self.lines() if "code" in line})
            raise Unavailable(f"{error.message}; it has {', '.join(said) or 'no refusals'}", code=error.code) from None


def until(found: Callable[[], T | None], what: str) -> T:
    """What `found` gives, as soon as it gives something.

    Raises:
        Unavailable: `unavailable.log`, it did not in `PATIENCE_SECONDS`.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if (value := found()) is not None:
            return value
        time.sleep(_POLL_SECONDS)
    raise Unavailable(f"this did not come in {PATIENCE_SECONDS:.0f} s: {what}", code="unavailable.log")


def start(arguments: Sequence[str], errors: IO[bytes], package_parent: Path | None = None) -> subprocess.Popen[str]:
    """Python with these arguments, from this package or the one in `package_parent`; its errors go to a file."""
    parent = package_parent or Path(blindai.__file__).parents[1]
    paths = [str(parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(  # noqa: S603 - this very program, and no shell
        [sys.executable, "-P", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
