"""How fast a stop is: from the operator's click, from the command line, and with the line cut.

python benchmarks/stopping.py [--quick] [--tries N]
"""

from __future__ import annotations

import argparse
import http.client
import re
import ssl
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from signal import SIGCONT, SIGSTOP
from urllib.parse import urlencode, urlsplit

import numpy as np
from loans import LENT, OPERATOR, PASSWORD, Loan, lent
from rawclient import unverified_context
from report import Table
from workload import tiny_model

from blindai import BlindAIError, LeaseStopped

TRIES = 50
QUICK_TRIES = 2

# Short, so that fifty tries take minutes: time runs out as fast as it is granted.
_SOFT_MS = 700
_TTL_MS = 1000

# What the custodian had sent when it was suspended has arrived by then.
_UNDER_WAY_SECONDS = 0.05

# After hard expiry queries are sent for so long; none of them may be answered.
_AFTER_SECONDS = 0.3

_INPUT = np.ones((1, 16), np.float32)

METHOD = (
    "Custodian and enclave are processes of their own, on a simulated platform. A client queries the model without a"
    " pause. *Refused* is the time from the operator's act to the first query that is refused; *acknowledged* is the"
    " time until the custodian's ledger holds the enclave's word that the model is wiped. *Dashboard* is the operator's"
    " POST; *command line* is another process that writes into the same database, which the server looks at every 100"
    " ms. Between tries the lease is resumed. For *line cut* the custodian's process is suspended, with grants of"
    f" {_TTL_MS} ms; what counts is how many queries were answered although they were sent after hard expiry."
)


@dataclass(frozen=True)
class Times:
    """Of one try, in milliseconds."""

    refused: float
    acknowledged: float


class Dashboard:
    """An operator who is signed in."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        context: ssl.SSLContext = unverified_context()
        self._origin = address
        self._connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, context=context)
        self._cookies: dict[str, str] = {}
        self._post("/sign-in", {"name": OPERATOR, "password": PASSWORD, "next": "/leases"}, page="/sign-in")

    def stop(self, lease: str) -> Callable[[], None]:
        """Fill the form in; the result presses the button."""
        page = f"/leases/{lease}/stop"
        token = self._token(page)
        return lambda: self._submit(page, {"csrf": token, "reason": "measured"})

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _post(self, path: str, fields: dict[str, str], *, page: str) -> None:
        self._submit(path, {"csrf": self._token(page), **fields})

    def _token(self, page: str) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self._request("GET", page))
        if found is None:
            raise RuntimeError(f"no form at {page}")
        return found[1]

    def _submit(self, path: str, fields: dict[str, str]) -> None:
        self._request("POST", path, urlencode(fields))

    def _request(self, method: str, path: str, body: str | None = None) -> str:
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self._cookies.items())}
        if body is not None:
            headers |= {"Content-Type": "application/x-www-form-urlencoded", "Origin": self._origin}
            headers |= {"Sec-Fetch-Site": "same-origin"}
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        text = answer.read().decode()
        for cookie in answer.headers.get_all("set-cookie") or []:
            name, _, value = cookie.partition(";")[0].partition("=")
            self._cookies[name] = value
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status}")
        return text


def measure(tries: int) -> Table:
    """All ways, each `tries` times."""
    with ExitStack() as stack:
        loan = stack.enter_context(lent(tiny_model()))
        # Closed before the server stops, which waits for whoever is still connected.
        dashboard = stack.enter_context(closing(Dashboard(str(loan.server.said["operators"]))))
        rows = [
            _row("dashboard", [_stop(loan, dashboard.stop(loan.lease)) for _ in range(tries)]),
            _row("command line", [_stop(loan, lambda: _stop_by_command(loan)) for _ in range(tries)]),
        ]
    with lent(tiny_model(), soft_ms=_SOFT_MS, ttl_ms=_TTL_MS) as loan:
        late = [_cut(loan) for _ in range(tries)]
    answered, sent = (sum(column) for column in zip(*late, strict=True))
    words = f"{answered} of the {sent} queries that were sent after hard expiry were answered"
    return Table(
        title="Stopping",
        method=METHOD,
        columns=["", "refused, ms: p50", "max", "acknowledged, ms: p50", "max"],
        rows=rows,
        notes=[f"Line cut, {tries} tries: {words}."],
    )


def _stop_by_command(loan: Loan) -> None:
    loan.custodian.ledger.stop(loan.lease, by=OPERATOR, reason="measured")


def _row(name: str, times: Sequence[Times]) -> list[str]:
    refused = [one.refused for one in times]
    acknowledged = [one.acknowledged for one in times]
    figures = (statistics.median(refused), max(refused), statistics.median(acknowledged), max(acknowledged))
    return [name, *(f"{figure:.1f}" for figure in figures)]


def _stop(loan: Loan, act: Callable[[], None]) -> Times:
    """Stop while queries run, wait for both signs, and resume."""
    for _ in range(20):
        loan.client.predict(LENT, _INPUT)
    before = loan.custodian.ledger.lease(loan.lease).version
    began = time.perf_counter()
    act()
    while True:
        try:
            loan.client.predict(LENT, _INPUT)
        except LeaseStopped:
            break
    refused = time.perf_counter()
    while True:
        lease = loan.custodian.ledger.lease(loan.lease)
        if any(instance.acknowledged_version > before for instance in lease.instances):
            break
        time.sleep(0.0005)
    acknowledged = time.perf_counter()
    loan.custodian.ledger.resume(loan.lease, by=OPERATOR, reason="measured")
    loan.serving()
    return Times((refused - began) * 1e3, (acknowledged - began) * 1e3)


def _cut(loan: Loan) -> tuple[int, int]:
    """Cut the line while queries run: how many were answered that were sent after hard expiry, of how many sent."""
    loan.client.predict(LENT, _INPUT)
    loan.server.process.send_signal(SIGSTOP)
    try:
        time.sleep(_UNDER_WAY_SECONDS)
        # What the enclave says is left was left before its answer came: hard expiry is not later than this.
        hard = time.monotonic() + loan.client.lease(LENT).hard_ms / 1000
        answered = sent = 0
        while (now := time.monotonic()) < hard + _AFTER_SECONDS:
            try:
                loan.client.predict(LENT, _INPUT)
                answered += now > hard
            except BlindAIError as error:
                if error.code != "lease.expired":
                    raise
            sent += now > hard
    finally:
        loan.server.process.send_signal(SIGCONT)
    loan.serving()
    return answered, sent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tries", type=int, default=TRIES)
    options = parser.parse_args()
    print(measure(QUICK_TRIES if options.quick else options.tries).markdown(), flush=True)
