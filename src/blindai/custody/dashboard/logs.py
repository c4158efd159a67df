"""The signed log of a lease: its pages, its check on this server, and its export for a check anywhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from starlette.responses import Response, StreamingResponse

from blindai.custody import log
from blindai.custody.dashboard.visit import Visit
from blindai.custody.log import BrokenLog, Chain, Header, SignedEntry, SignedFooter
from blindai.errors import InvalidInput

if TYPE_CHECKING:
    from blindai.custody.ledger import Ledger

PAGE_ENTRIES: Final = 50

# Above this many digits a number in an address is none of ours.
_MAX_DIGITS: Final = 16

# Evidence is long: the page shows the beginning, the export all of it.
_SHOWN_CHARACTERS: Final = 4000


@dataclass(frozen=True)
class Check:
    """What came of checking a log.

    Attributes:
        count, head: of the entries that follow from one another, and the digest of the last.
        broken: why it ended there; None where it did not break.
    """

    count: int
    head: str
    broken: BrokenLog | None


def check(ledger: Ledger, lease: str, public_key: str) -> Check:
    """Check every entry of the log, as it is exported: its signature, and that it follows from the one before."""
    chain = Chain(lease, log.public_key(public_key))
    lines = ledger.export(lease)
    try:
        log.parse(next(lines), Header)
        before = ""
        for line in lines:
            if before:
                chain.extend(log.parse(before, SignedEntry))
            before = line
        chain.end(log.parse(before, SignedFooter))
    except BrokenLog as error:
        return Check(chain.count, chain.head, error)
    return Check(chain.count, chain.head, None)


async def entries(visit: Visit) -> Response:
    """One page of the log, the newest entry first."""
    return await _page(visit)


async def verify(visit: Visit) -> Response:
    """Check the whole log, and say what came of it."""
    lease = visit.part("lease")
    await visit.ask(visit.desk.ledger.lease, lease)
    return await _page(visit, checked=await visit.check(check, visit.desk.ledger, lease, visit.desk.public_key))


async def export(visit: Visit) -> Response:
    """The whole log, for `blindai custodian audit`."""
    lease = await visit.ask(visit.desk.ledger.lease, visit.part("lease"))
    # The id of a lease is made of letters, digits and "-".
    headers = {"content-disposition": f'attachment; filename="{lease.id}.jsonl"'}
    return StreamingResponse(
        _lines(visit.desk.ledger.export(lease.id)), media_type="application/jsonl; charset=utf-8", headers=headers
    )


async def _page(visit: Visit, *, checked: Check | None = None) -> Response:
    lease = await visit.ask(visit.desk.ledger.lease, visit.part("lease"))
    count = (await visit.ask(visit.desk.ledger.entries)).get(lease.id, 0)
    last = _number(visit.request.query_params.get("to"), count)
    first = max(0, last - PAGE_ENTRIES)
    found = await visit.ask(visit.desk.ledger.events, lease.id, after=first, limit=last - first) if last else []
    shown = [(event, _shortened(json.dumps(event.detail, indent=1, ensure_ascii=False))) for event in reversed(found)]
    return visit.page(
        "log.html", lease=lease, count=count, first=first, last=last, shown=shown, page=PAGE_ENTRIES, checked=checked
    )


def _number(text: str | None, most: int) -> int:
    if text is None:
        return most
    if len(text) > _MAX_DIGITS or not (text.isascii() and text.isdigit()):
        raise InvalidInput("the log has no such page", code="http.not_found")
    return min(int(text), most)


def _shortened(text: str) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"{text[:_SHOWN_CHARACTERS]}\n... {len(text) - _SHOWN_CHARACTERS:,} more characters: see the export"


def _lines(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield line + "\n"
