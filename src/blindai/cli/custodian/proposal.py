"""`blindai custodian agree` and `withdraw`: decisions that need several operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from blindai.cli.custodian import pictures
from blindai.cli.custodian.office import Office, command

if TYPE_CHECKING:
    from blindai.custody.views import Proposal

ProposalArgument = Annotated[str, typer.Argument(metavar="PROPOSAL", help="Its id, as `lease show` shows it.")]


@command("decide")
def agree(office: Office, proposal: ProposalArgument) -> None:
    """Agree to a decision of another operator. With enough of you, it is carried out."""
    tell(office, office.ledger.agree(proposal, by=office.by))


@command("decide")
def withdraw(office: Office, proposal: ProposalArgument) -> None:
    """Drop a decision that waits for others; things stay as they are."""
    tell(office, office.ledger.withdraw(proposal, by=office.by))


def tell(office: Office, found: Proposal) -> None:
    """Say where a decision is."""
    lines = [pictures.proposal(found)]
    if found.state.value == "open":
        missing = found.needed - len(found.agreed)
        lines.append(f"waits for {missing} more: blindai custodian agree {escape(found.id)} --as NAME")
    office.show(pictures.plain(found), *lines)
