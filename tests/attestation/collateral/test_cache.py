from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote

import pytest

from blindai.attestation.collateral import intel
from blindai.attestation.collateral.cache import Cache
from blindai.attestation.collateral.document import Document, Entry, Kind, read, to_file
from blindai.attestation.collateral.service import Services
from blindai.attestation.simulated.intel import SimulatedIntel
from blindai.errors import Unavailable
from collateral_services import Service
from collateral_world import START, World


@pytest.fixture
def document(tdx: SimulatedIntel, intel_service: Service) -> Document:
    """The root CA's revocation list, whose file is PEM."""
    return intel.plan(tdx.attest(bytes(64)), Services(intel=intel_service.url)).documents[-1]


@pytest.fixture
def entry(world: World, document: Document, intel_service: Service) -> Entry:
    return read(document, intel_service.reply("/sgx/certification/v4/rootcacrl").body, fetched_at=START)


@pytest.mark.parametrize("on_disk", [True, False])
def test_an_entry_is_served_within_its_validity_and_at_no_other_second(
    document: Document, entry: Entry, tmp_path: Path, on_disk: bool
) -> None:
    cache = Cache(tmp_path if on_disk else None)
    cache.store(document, entry)
    window, second = entry.window, timedelta(seconds=1)
    for now in (window.not_before, START, window.not_after):
        assert cache.load(document, now) == entry
    for now in (window.not_before - second, window.not_after + second):
        assert cache.load(document, now) is None


def test_the_later_of_two_entries_is_served(
    world: World, document: Document, entry: Entry, intel_service: Service, tmp_path: Path
) -> None:
    """Another process has renewed the file."""
    here, there = Cache(tmp_path), Cache(tmp_path)
    here.store(document, entry)
    world.now += timedelta(days=25)
    body = intel_service.reply("/sgx/certification/v4/rootcacrl").body
    newer = read(document, body, fetched_at=world.now)
    there.store(document, newer)
    assert here.load(document, world.now) == newer != entry


def test_a_file_is_for_its_owner_alone(document: Document, entry: Entry, tmp_path: Path) -> None:
    Cache(tmp_path / "new").store(document, entry)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new" / document.name).stat().st_mode & 0o777 == 0o600


def test_a_failed_write_leaves_the_old_file(
    document: Document, entry: Entry, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path, log=world.log)
    cache.store(document, entry)
    before = (tmp_path / document.name).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    cache.store(document, entry)
    assert [path.name for path in tmp_path.iterdir()] == [document.name]
    assert (tmp_path / document.name).read_bytes() == before
    assert "No space left" in world.events_named("collateral_not_stored")[0]["error"]


def test_in_memory_a_dropped_entry_is_gone(document: Document, entry: Entry, world: World) -> None:
    cache = Cache(None, log=world.log)
    cache.store(document, entry)
    cache.drop(document, why="a test")
    assert cache.load(document, START) is None
    assert world.events == [("collateral_damaged", {"document": document.name, "error": "a test"})]


WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from blindai.attestation.collateral.cache import Cache
from blindai.attestation.collateral.document import Document, Kind

document = Document(name=sys.argv[2], what="the list", kind=Kind.CRL, url="")
now = datetime.fromisoformat(sys.argv[3])
def log(event, **fields):
    sys.exit(f"{event} {fields}")
cache = Cache(Path(sys.argv[1]), log=log)
for _ in range(100):
    fresh = Cache(Path(sys.argv[1]), log=log)
    entry = fresh.load(document, now)
    assert entry is not None
    cache.store(document, entry)
"""


def test_two_processes_at_once_never_see_half_a_file(document: Document, entry: Entry, tmp_path: Path) -> None:
    Cache(tmp_path).store(document, entry)
    command = [sys.executable, "-c", WRITER, str(tmp_path), document.name, START.isoformat()]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert (writer.returncode, errors) == (0, b"")
    assert [path.name for path in tmp_path.iterdir()] == [document.name]
    assert Cache(tmp_path).load(document, START) == entry


@pytest.mark.parametrize("number", range(4))
def test_a_file_reads_as_what_was_written(tdx: SimulatedIntel, intel_service: Service, number: int) -> None:
    document = intel.plan(tdx.attest(bytes(64)), Services(intel=intel_service.url)).documents[number]
    answer = intel_service.reply(document.url.removeprefix(intel_service.url))
    headers = {name.lower(): value for name, value in answer.headers.items()}
    chain = next((unquote(headers[name]) for name in document.chain_headers if name in headers), "")
    entry = read(document, answer.body, chain=chain, fetched_at=START)
    assert read(document, to_file(document, entry), fetched_at=START) == entry


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("data", [b"", b"\0", b"{}", b"-----BEGIN CERTIFICATE-----", b"\xff" * 100])
def test_what_is_no_document(kind: Kind, data: bytes) -> None:
    document = Document(name="x", what="the document", kind=kind, url="")
    with pytest.raises(Unavailable) as caught:
        read(document, data, fetched_at=START)
    assert caught.value.code == "collateral.malformed"
    assert "the document" in caught.value.message
