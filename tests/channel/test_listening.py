"""What a server does before its first connection."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from blindai.channel.listening import listen, run
from blindai.errors import ConfigurationError


def test_an_address_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError) as caught:
            listen("127.0.0.1", port)
    assert caught.value.code == "configuration.address"
    assert str(port) in caught.value.message


def test_an_address_that_is_none_is_named() -> None:
    with pytest.raises(ConfigurationError) as caught:
        listen("256.0.0.1.invalid", 0)
    assert caught.value.code == "configuration.address"


def test_a_program_may_open_as_many_files_as_the_system_allows() -> None:
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed: list[int] = []

    async def main() -> None:
        allowed.append(resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before, 256), most))
    try:
        run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
    assert allowed == [most]


CRASHES = """
import os, resource, sys
from blindai.channel.listening import run

secret = os.urandom(16).hex() * 1000

async def main():
    sys.stdout.write(f"{resource.getrlimit(resource.RLIMIT_CORE)} {open('/proc/self/coredump_filter').read()}")
    sys.stdout.flush()
    os.abort()

run(main())
"""


def test_a_program_that_crashes_leaves_nothing_on_the_disk(tmp_path: Path) -> None:
    crashed = subprocess.run(
        ["sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh", sys.executable, "-c", CRASHES],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert crashed.returncode == -6
    assert crashed.stdout == "(1, 1) 00000000\n"
    assert list(tmp_path.iterdir()) == []
