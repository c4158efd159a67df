from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blindai.demo import enclaves
from blindai.demo.enclaves import install_back_door, served
from blindai.errors import Unavailable

STUBBORN = """\
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('{"address": "x"\\n}', flush=True)
time.sleep(60)
"""


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    broken = tmp_path / "blindai"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise SystemExit(1)")
    with pytest.raises(Unavailable) as caught, served(tmp_path):
        pass
    assert caught.value.code == "unavailable.start"
    assert "blindai serve" in caught.value.hint


def test_a_server_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enclaves, "STOP_SECONDS", 0.1)
    start, started = subprocess.Popen, []

    def popen(command: list[str], **options: Any) -> subprocess.Popen[str]:
        started.append(start([sys.executable, "-c", STUBBORN], **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", popen)
    with served() as address:
        assert address == "x"
    assert started[0].returncode == -9


def test_a_folder_called_blindai_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python puts the current folder first; the demo's enclaves must be those that are meant."""
    decoy = tmp_path / "blindai"
    decoy.mkdir()
    (decoy / "__init__.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    with served() as address:
        assert address.startswith("https://127.0.0.1:")


def test_what_python_finds_elsewhere_is_still_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text("import os; open(os.environ['SEEN'], 'w').close()")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    with served():
        pass
    assert (tmp_path / "seen").exists()


def test_the_back_door_changes_nothing_but_the_server(tmp_path: Path) -> None:
    package = Path(enclaves.__file__).parents[1]
    copy = install_back_door(tmp_path, tmp_path / "loot") / "blindai"
    names = {path.relative_to(package) for path in package.rglob("*.py")}
    changed = [name for name in names if (copy / name).read_bytes() != (package / name).read_bytes()]
    assert changed == [Path("enclave/http/connection.py")]
    compile((copy / "enclave/http/connection.py").read_text(), "connection.py", "exec")
