"""`blindai custodian stop`, `pause` and `resume`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from blindai.cli.custodian import pictures, proposal
from blindai.cli.custodian.lease import LeaseArgument
from blindai.cli.custodian.office import Office, command

if TYPE_CHECKING:
    from blindai.custody.views import Lease

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; consumers read it.")]


@command("stop")
def stop(office: Office, lease: LeaseArgument, reason: Reason = "") -> None:
    """Stop a lease: no query starts any more, and its enclaves wipe the model."""
    _tell(office, office.ledger.stop(lease, by=office.by, reason=reason))


@command("stop")
def pause(office: Office, lease: LeaseArgument, reason: Reason = "") -> None:
    """Pause a lease: no query starts; its enclaves keep the model until their time runs out."""
    _tell(office, office.ledger.pause(lease, by=office.by, reason=reason))


@command("resume")
def resume(office: Office, lease: LeaseArgument, reason: Reason = "") -> None:
    """Let a lease go on. May need the agreement of other operators."""
    waiting = office.ledger.resume(lease, by=office.by, reason=reason)
    if waiting is None:
        _tell(office, office.ledger.lease(lease))
    else:
        proposal.tell(office, waiting)


def _tell(office: Office, lease: Lease) -> None:
    holding = [one for one in lease.instances if one.expires_by is not None and one.state.value != "closed"]
    lines = [f"{escape(lease.name)} is {pictures.state(lease)}"]
    if lease.state.value != "active":
        # They hear of it from the custodian's server, if one runs; if not, their time runs out.
        lines += [
            f"  {one.id[:16]} hears of it now, or ends by {one.expires_by.isoformat(timespec='seconds')}"
            for one in holding
            if one.expires_by is not None
        ]
    office.show(pictures.plain(lease), *lines)
