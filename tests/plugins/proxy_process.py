"""`blindai proxy` in a process of its own, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from blindai.demo.enclaves import announced, stop


class ProxyProcess:
    """A proxy on a free port of loopback. A context manager.

    Attributes:
        port: where it listens.
        announcement: what it says of itself once it listens.
    """

    def __init__(self, address: str, *options: str) -> None:
        """`address` is the enclave's; without `options` no token is asked for."""
        self._command = [sys.executable, "-P", "-m", "blindai", "proxy", address, "--simulation", "--json"]
        self._command += ["--listen", "127.0.0.1:0", *(options or ("--no-token",))]
        self.port = 0
        self.announcement: dict[str, Any] = {}

    def __enter__(self) -> Self:
        descriptor, path = tempfile.mkstemp(prefix="blindai-proxy-")
        os.close(descriptor)
        self._said = Path(path)
        with self._said.open("w") as said:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=said, text=True)
        self.announcement = announced(cast("Any", self._process.stdout), str(self._said))
        self.port = int(self.announcement["address"].rpartition(":")[2])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop(self._process)
        self._said.unlink()
        assert self._process.returncode == 0

    @property
    def refusals(self) -> list[str]:
        """Codes of the requests that it refused by itself."""
        return [json.loads(line)["refused"]["code"] for line in self._said.read_text().splitlines()]
