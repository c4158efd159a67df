"""A custodian at work: enclaves at one port, operators at the other, and everything that can go wrong in between."""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import socket
import sqlite3
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from blindai.channel import gated
from blindai.custody import server
from blindai.custody.clock import SYSTEM_LEDGER_CLOCK
from blindai.errors import BlindAIError, LeaseStopped, Unavailable
from blindai.web import http
from blindai.web.http import HttpLimits
from blindai.wire.custody import LeaseState
from calling_instance import CallingInstance
from custodian import RunningCustodian
from custodian_processes import CustodianProcess
from lent_models import OPERATOR, PASSWORD, Loan, lend, opened
from postgresql import PostgreSQL

pytestmark = pytest.mark.usefixtures("forked")

Borrow = Callable[[Loan, str], CallingInstance]
Start = Callable[..., CustodianProcess]


def test_a_lease_from_the_first_grant_to_the_closing(running: RunningCustodian, borrow: Borrow) -> None:
    loan = running.lend(b"the weights" * 1000)
    instance = borrow(loan, running.enclaves)
    answer = instance.renew({"clinic": 10}, key=True)
    assert instance.key_of(answer) == loan.key
    assert answer.grant.quantities == {"clinic": 10}
    size = loan.artefact.stat().st_size
    assert instance.part(0, size) == loan.artefact.read_bytes()
    assert instance.part(size - 10, 1000) == loan.artefact.read_bytes()[-10:]
    assert instance.part(size, 1000) == b""
    instance.spend("clinic", 4)
    assert instance.renew().grant.record_seq == 1
    assert instance.close().refunded == {"clinic": 6}
    lease = running.custodian.ledger.lease(loan.lease)
    assert (lease.spent, lease.granted) == (4, 4)


def test_a_stop_answers_the_watch_at_once(running: RunningCustodian, borrow: Borrow) -> None:
    loan = running.lend()
    instance = borrow(loan, running.enclaves)
    version = instance.renew({"clinic": 1}).version
    stopping = threading.Timer(0.2, lambda: running.custodian.ledger.stop(loan.lease, by=OPERATOR, reason="no more"))
    stopping.start()
    status = instance.watch(known=version, wait_ms=60_000)
    stopping.join()
    assert (status.state, status.stop_epoch, status.reason) == (LeaseState.STOPPED, 1, "no more")
    with pytest.raises(LeaseStopped) as caught:
        instance.renew()
    assert caught.value.code == "lease.stopped"
    instance.watch(applied=status.version)
    (shown,) = running.custodian.ledger.lease(loan.lease).instances
    assert shown.acknowledged_version == status.version


def test_many_instances_watch_at_once(running: RunningCustodian, borrow: Borrow) -> None:
    loan = running.lend(max_instances=20)
    instances = [borrow(loan, running.enclaves) for _ in range(20)]
    version = running.custodian.ledger.lease(loan.lease).version
    heard: list[LeaseState] = []
    threads = [
        threading.Thread(target=lambda one=one: heard.append(one.watch(known=version, wait_ms=60_000).state))
        for one in instances
    ]
    for thread in threads:
        thread.start()
    running.eventually(lambda: len(running.server._watches) == 20)
    running.custodian.ledger.pause(loan.lease, by=OPERATOR)
    for thread in threads:
        thread.join(20)
    assert heard == [LeaseState.PAUSED] * 20


def test_the_end_answers_who_waits(custodian_folder: Path, tmp_path: Path, borrow: Borrow) -> None:
    with opened(custodian_folder) as custodian:
        running = RunningCustodian(custodian)
        loan = running.lend()
        instance = borrow(loan, running.enclaves)
        version = custodian.ledger.lease(loan.lease).version

        def close() -> None:
            running.eventually(lambda: len(running.server._watches) == 1)
            running.close()

        closing = threading.Thread(target=close)
        closing.start()
        assert instance.watch(known=version, wait_ms=60_000).state is LeaseState.ACTIVE
        closing.join()


def test_a_taken_port_leaves_nothing_open(custodian_folder: Path) -> None:
    with opened(custodian_folder) as custodian, socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(BlindAIError) as caught:
            RunningCustodian(custodian, enclave_port=taken.getsockname()[1])
        assert caught.value.code == "configuration.address"


# Processes.


def test_a_killed_custodian_has_lost_nothing_that_it_said(
    start_custodian: Start, custodian_folder: Path, database_url: str, borrow: Borrow
) -> None:
    with opened(custodian_folder, database_url) as custodian:
        loan = lend(custodian)
    process = start_custodian()
    instance = borrow(loan, process.enclaves)
    instance.renew({"clinic": 10}, key=True)
    instance.spend("clinic", 3)
    waiting = instance.next_renewal({"clinic": 10})
    first = instance.another_line().renew(waiting)
    process.kill()
    with pytest.raises(Unavailable):
        instance.renew()
    again = start_custodian(enclave_port=process.enclave_port)
    assert again.public_key == process.public_key
    # Its answer may have been lost with it: the same renewal is answered as before, and nothing is debited twice.
    assert instance.another_line().renew(waiting) == first
    instance.take(first)
    instance.call()
    assert instance.close().refunded == {"clinic": 17}
    with opened(custodian_folder, database_url) as custodian:
        lease = custodian.ledger.lease(loan.lease)
    assert (lease.spent, lease.granted) == (3, 3)


def test_a_database_that_goes_and_comes_back(custodian_folder: Path, borrow: Borrow) -> None:
    database = PostgreSQL()
    try:
        database.start()
        with opened(custodian_folder, database.create()) as custodian:
            running = RunningCustodian(custodian)
            try:
                instance = borrow(running.lend(), running.enclaves)
                first = instance.renew({"clinic": 1})
                database.stop(signal.SIGQUIT)  # as a power cut would
                waiting = instance.next_renewal({"clinic": 1})
                assert instance.line is not None
                with pytest.raises(Unavailable) as caught:
                    instance.line.renew(waiting)
                assert caught.value.code == "unavailable.database"
                database.start()
                assert instance.line.renew(waiting).grant.prev == first.grant.digest
                custodian.ledger.stop(instance.lease, by=OPERATOR)
                assert instance.watch(known=first.version, wait_ms=60_000).state is LeaseState.STOPPED
            finally:
                running.close()
    finally:
        database.remove()


def test_a_restored_backup_grants_nothing_to_who_has_seen_more(custodian_folder: Path, borrow: Borrow) -> None:
    with opened(custodian_folder) as custodian:
        loan = lend(custodian)
    database = custodian_folder / "custodian.sqlite3"
    with CustodianProcess(custodian_folder) as process:
        instance = borrow(loan, process.enclaves)
        instance.renew({"clinic": 1})
        backup = custodian_folder / "backup"
        with sqlite3.connect(database) as source, sqlite3.connect(backup) as target:
            source.backup(target)
        target.close()
        source.close()
        instance.renew({"clinic": 50})
        port = process.enclave_port
    for leftover in custodian_folder.glob("custodian.sqlite3-*"):
        leftover.unlink()
    backup.replace(database)
    with CustodianProcess(custodian_folder, enclave_port=port):
        with pytest.raises(LeaseStopped) as caught:
            instance.call().renew({"clinic": 1})
        assert caught.value.code == "lease.forked"
    with opened(custodian_folder) as custodian:
        lease = custodian.ledger.lease(loan.lease)
    assert lease.granted == 1
    assert lease.instances[0].state.value == "quarantined"
    assert lease.instances[0].reason


def test_a_stop_through_one_process_reaches_who_watches_at_another(
    postgresql: Any, custodian_folder: Path, borrow: Borrow
) -> None:
    url = postgresql.create()
    with opened(custodian_folder, url) as custodian:
        loan = lend(custodian)
    with (
        CustodianProcess(custodian_folder, url, log=custodian_folder / "a.log") as one,
        CustodianProcess(custodian_folder, url, log=custodian_folder / "b.log") as two,
    ):
        assert one.public_key == two.public_key
        instance = borrow(loan, two.enclaves)
        granted = instance.renew({"clinic": 5})
        heard: list[LeaseState] = []
        watching = threading.Thread(
            target=lambda: heard.append(instance.watch(known=granted.version, wait_ms=60_000).state)
        )
        watching.start()
        assert one.decide("stop", loan.lease, "--reason", "enough")["state"] == "stopped"
        watching.join(30)
        assert heard == [LeaseState.STOPPED]
        # What one process granted, the other answers again; and no message is about anything but the lease.
        assert instance.renewal is not None
        with pytest.raises(LeaseStopped):
            instance.another_line(one.enclaves).renew(instance.renewal)


def test_a_process_ends_in_good_order(start_custodian: Start) -> None:
    process = start_custodian()
    assert process.stop() == 0
    assert [event["event"] for event in process.events()][-1] == "stopped"


def test_the_second_start_makes_no_second_key(start_custodian: Start, custodian_folder: Path) -> None:
    first = start_custodian()
    first.kill()
    second = start_custodian()
    assert first.public_key == second.public_key
    assert first.said["certificate_sha256"] == second.said["certificate_sha256"]
    assert (custodian_folder / "tls" / "pages.pem").stat().st_mode & 0o777 == 0o600


# Clients that are slow, silent, or something else.


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, custodian_folder: Path) -> Any:
    """A custodian that waits for nobody."""
    limits: dict[str, Any] = {
        "max_connections": 64,
        "max_body_bytes": 1 << 20,
        "head_seconds": 0.3,
        "body_seconds": 0.3,
        "idle_seconds": 0.3,
    }
    monkeypatch.setattr(gated, "GATE_SECONDS", 0.5)
    monkeypatch.setattr(server, "ENCLAVE_LIMITS", HttpLimits(**limits))
    monkeypatch.setattr(server, "OPERATOR_LIMITS", HttpLimits(**limits))
    monkeypatch.setattr(http, "LINGER_SECONDS", 0.3)
    with opened(custodian_folder) as custodian:
        running = RunningCustodian(custodian)
        yield running
        running.close()


def _enclave_socket(running: RunningCustodian) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.addresses.enclaves[1]), timeout=20)


def _operator_socket(running: RunningCustodian) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(running.custodian.place.tls / "pages.pem"))
    raw = socket.create_connection(("127.0.0.1", running.addresses.operators[1]), timeout=20)
    return context.wrap_socket(raw, server_hostname="127.0.0.1")


def _drained(connection: socket.socket) -> bytes:
    """What comes until the end."""
    received = b""
    try:
        while part := connection.recv(1 << 16):
            received += part
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "a byte", "a beginning"])
def test_who_stays_before_the_gate_is_cut(impatient: RunningCustodian, borrow: Borrow, sent: bytes) -> None:
    silent = [_enclave_socket(impatient) for _ in range(30)]
    for one in silent:
        one.sendall(sent)
    loan = impatient.lend()
    assert borrow(loan, impatient.enclaves).renew({"clinic": 1}).grant.quantities == {"clinic": 1}
    for one in silent:
        with one:
            _drained(one)


def test_something_else_than_tls_is_told(impatient: RunningCustodian) -> None:
    with _enclave_socket(impatient) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert b"channel.plain_http" in _drained(connection)


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", b"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nx"]
)
def test_a_slow_operator_is_cut_and_the_others_are_not(impatient: RunningCustodian, sent: bytes) -> None:
    with _operator_socket(impatient) as slow, _operator_socket(impatient) as other:
        slow.sendall(sent)
        other.sendall(b"GET /sign-in HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert _drained(other).startswith(b"HTTP/1.1 200")
        assert (b"http.timeout" in _drained(slow)) == bool(sent)


def test_half_a_handshake_holds_nobody_up(impatient: RunningCustodian) -> None:
    address = ("127.0.0.1", impatient.addresses.operators[1])
    with socket.create_connection(address, timeout=20) as half:
        half.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        with _operator_socket(impatient) as other:
            other.sendall(b"GET /sign-in HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert _drained(other).startswith(b"HTTP/1.1 200")


def test_an_instance_that_sends_slowly_is_cut(impatient: RunningCustodian, borrow: Borrow) -> None:
    instance = borrow(impatient.lend(), impatient.enclaves)
    assert instance.line is not None
    head = b"POST /v1/renewals HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    with capture_logs() as logs:
        answer = instance.line._stream.run(instance.line._call.exchange(head, max_answer_bytes=1000))
    assert (answer.status, json.loads(answer.body)["code"]) == (408, "http.timeout")
    assert [entry for entry in logs if entry["event"] in {"incident", "refused"}] == []


def test_the_operators_port_shows_the_dashboard_and_nothing_of_enclaves(impatient: RunningCustodian) -> None:
    for path, status in (("/v1/renewals", b"404"), ("/", b"303")):
        with _operator_socket(impatient) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert _drained(connection)[9:12] == status


# Clocks.


@dataclass
class Calendar:
    """The machine's clock since boot, and a wall clock that somebody turns."""

    shift: timedelta = timedelta()

    @property
    def boot(self) -> str:
        return SYSTEM_LEDGER_CLOCK.boot

    def elapsed_ms(self) -> int:
        return SYSTEM_LEDGER_CLOCK.elapsed_ms()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.shift


@pytest.mark.parametrize("days", [366, -366])
def test_a_wall_clock_that_is_moved_by_a_year_decides_nothing(
    custodian_folder: Path, borrow: Borrow, days: int
) -> None:
    clock = Calendar()
    with opened(custodian_folder, clock=clock) as custodian:
        running = RunningCustodian(custodian)
        try:
            loan = running.lend()
            instance = borrow(loan, running.enclaves)
            before = instance.renew({"clinic": 10}).grant
            clock.shift = timedelta(days=days)
            after = instance.renew({"clinic": 10}).grant
            assert (after.soft_ms, after.ttl_ms) == (before.soft_ms, before.ttl_ms)
            # The grant still counts: a second instance stays outside.
            with pytest.raises(Unavailable) as caught:
                borrow(loan, running.enclaves).renew({"clinic": 1})
            assert caught.value.code == "lease.instances"
            running.custodian.ledger.stop(loan.lease, by=OPERATOR)
            assert instance.watch(known=0).state is LeaseState.STOPPED
        finally:
            running.close()


# Secrets.


def test_no_secret_comes_into_a_log(
    start_custodian: Start, custodian_folder: Path, database_url: str, borrow: Borrow
) -> None:
    """A journey with everything logged that can be, refusals and a broken database included."""
    with opened(custodian_folder, database_url) as custodian:
        loan = lend(custodian, b"weights that nobody may see" * 100, consumers={"clinic": 3})
        seed = custodian.keys._signing.private_bytes_raw()
    process = start_custodian()
    instance = borrow(loan, process.enclaves)
    model_key = instance.key_of(instance.renew({"clinic": 3}, key=True))
    assert instance.line is not None
    instance.part(0, 1000)
    instance.spend("clinic", 3)
    instance.renew()
    request = instance.request("clinic", 5)
    instance.line.post("/v1/renewals", b'{"token":"' + loan.tokens["clinic"].encode() + b'"}')
    instance.line.post("/v1/" + loan.tokens["clinic"], b"{}")
    with opened(custodian_folder, database_url) as custodian:
        custodian.ledger.approve(request.id, by=OPERATOR)
        custodian.ledger.stop(loan.lease, by=OPERATOR, reason="over")
    instance.watch(known=1)
    with pytest.raises(LeaseStopped):
        instance.renew(key=True)
    process.stop()
    log = process.log.read_bytes()
    assert b'"asked"' in log
    assert b'"refused"' in log
    secrets = {
        "model key": model_key,
        "unlock key": (custodian_folder / "unlock.key").read_bytes(),
        "signing seed": seed,
        "password": PASSWORD.encode(),
        "weights": loan.model[:27],
        "TLS key": _private_key_bytes(custodian_folder / "tls" / "pages.pem"),
    }
    for name, secret in secrets.items():
        for form in (
            secret,
            secret.hex().encode(),
            base64.b64encode(secret).rstrip(b"="),
            base64.urlsafe_b64encode(secret).rstrip(b"="),
            repr(secret)[2:-1].encode(),
        ):
            assert form not in log, name
    if "://" in database_url:
        assert database_url.split(":")[2].split("@", maxsplit=1)[0].encode() not in log


def test_a_token_in_the_path_is_not_logged(running: RunningCustodian, borrow: Borrow) -> None:
    loan = running.lend()
    instance = borrow(loan, running.enclaves)
    assert instance.line is not None
    with capture_logs() as logs:
        instance.line.post("/v1/" + loan.tokens["clinic"], b"{}")
    assert logs
    assert loan.tokens["clinic"] not in repr(logs)


def _private_key_bytes(path: Path) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, EllipticCurvePrivateKey)
    return key.private_numbers().private_value.to_bytes(32, "big")


def test_the_certificate_of_its_own_is_the_one_that_is_shown(custodian_folder: Path) -> None:
    with opened(custodian_folder) as custodian:
        running = RunningCustodian(custodian)
        try:
            with _operator_socket(running) as connection:
                shown = connection.getpeercert(binary_form=True)
            assert shown is not None
            fingerprint = running.server._tls.fingerprint.replace(":", "").lower()
            assert hashlib.sha256(shown).hexdigest() == fingerprint
        finally:
            running.close()
