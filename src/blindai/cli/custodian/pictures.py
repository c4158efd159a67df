"""Leases as the command line shows them, for programs and for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from blindai.errors import harmless

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blindai.custody.views import Account, Instance, Lease, Proposal, Request

_COLOURS = {"active": "green", "paused": "yellow", "stopped": "red"}


def plain(value: Any) -> Any:
    """A view of the ledger, as JSON has it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value


def lease(found: Lease) -> dict[str, Any]:
    """A lease for programs."""
    shown: dict[str, Any] = plain(found)
    return shown


def state(found: Lease) -> str:
    """Its state, in colour."""
    return f"[{_COLOURS[found.state.value]}]{found.state}[/]"


def pending(found: Lease) -> tuple[Request, ...]:
    """Requests that wait for a decision."""
    return tuple(one for one in found.requests if one.state.value == "pending")


def words(found: Lease, custodian: str) -> Iterator[str]:
    """A lease for people, line by line; `custodian` is the public key."""
    yield f"[bold]{escape(found.name)}[/]  {found.id}  {state(found)}  {escape(found.reason)}".rstrip()
    yield f"  borrower    {escape(found.borrower)}"
    yield f"  custodian   {custodian}"
    yield f"  model       {escape(found.model_id)}  {found.model_digest}"
    yield f"  {found.unit.value:<11} {found.spent:,} spent, {found.granted:,} granted, {found.budget:,} budget"
    yield f"  time        no query after {_seconds(found.soft_ms)}, wiped after {_seconds(found.ttl_ms)} without a word"
    yield f"  enclaves    {found.max_instances} at once, at most"
    if found.approvals > 1:
        yield f"  approvals   {found.approvals} operators must agree to a resume or a raise"
    for title, lines in (
        ("consumers", map(_account, found.accounts)),
        ("enclaves", (_instance(found, one) for one in found.instances)),
        ("requests", map(_request, found.requests)),
        ("proposals", map(proposal, found.proposals)),
    ):
        shown = list(lines)
        if shown:
            yield f"[bold]{title}[/]"
            yield from (f"  {line}" for line in shown)


def proposal(found: Proposal) -> str:
    """A decision that waits, or waited, for others."""
    detail = _pairs(found.detail)
    agreed = ", ".join(found.agreed)
    text = f"{found.id}  {found.state}  {found.action} {detail}  {len(found.agreed)} of {found.needed}: {agreed}"
    return escape(harmless(text))


def _account(found: Account) -> str:
    name = found.consumer or "anyone"
    budget = "the lease's budget" if found.budget is None else f"{found.budget:,} budget"
    return escape(f"{name}  {found.spent:,} spent, {found.granted:,} granted, {budget}")


def _instance(found: Lease, one: Instance) -> str:
    parts = [one.id[:16], one.state.value]
    if one.simulated:
        parts.append("SIMULATED")
    held = sum(one.outstanding.values())
    parts.append(f"holds {held:,}")
    if one.acknowledged_version >= found.changed_version:
        parts.append("has heard of the last change")
    elif one.expires_by is not None:
        parts.append(f"has not heard of the last change; ends by {one.expires_by.isoformat(timespec='seconds')}")
    if one.reason:
        parts.append(one.reason)
    return escape(harmless("  ".join(parts)))


def _request(found: Request) -> str:
    text = f"{found.id}  {found.state}  {found.consumer or 'anyone'} wants {found.wanted:,}"
    if found.decided_by:
        text += f", given {found.granted:,} by {found.decided_by}"
    return escape(harmless(f"{text}  {found.reason}".rstrip()))


def _pairs(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items() if value is not None)


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:g} s"
