"""The first page of an account: what there is, and what to do next."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from blindai.cloud.accounts import Action
from blindai.cloud.accounts.roles import ALLOWED
from blindai.cloud.console.keys import in_force
from blindai.cloud.console.visit import ACCOUNT, HOME, Address, Visit
from blindai.web.forms import see

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.responses import Response

    from blindai.wire.cloud_api import Endpoint, ListedModel

NO_ACCOUNT: Final = "/account"


@dataclass(frozen=True)
class State:
    """How many models are in one state.

    Attributes:
        name: as the enclave calls it, in small letters.
    """

    name: str
    count: int


def states(models: Iterable[ListedModel]) -> tuple[State, ...]:
    """How many of `models` are in which state, the most frequent first."""
    counted = Counter(one.listing.state.lower() or "unknown" for one in models)
    return tuple(State(name, count) for name, count in sorted(counted.items(), key=lambda one: (-one[1], one[0])))


async def home(visit: Visit) -> Response:
    """Go to the account that is the user's own, or to one that they work in."""
    name = visit.namespace or next((one.namespace for one in visit.memberships), "")
    return see(f"/accounts/{name}" if name else NO_ACCOUNT)


async def overview_page(visit: Visit) -> Response:
    """What the account has, what it used, and the lines that use it."""
    fleet = visit.plane.fleet
    models = await visit.ask(fleet.models, visit.namespace)
    usage = await visit.ask(fleet.usage, visit.namespace)
    makes_keys = visit.role is not None and Action.KEYS in ALLOWED[visit.role]
    keys = await visit.ask(visit.plane.accounts.keys, visit.person.id, visit.namespace) if makes_keys else ()
    now = visit.desk.now()
    return visit.page(
        "overview.html",
        makes_keys=makes_keys,
        keys=sum(in_force(one, now) for one in keys),
        models=models,
        states=states(models),
        usage=usage,
        endpoint=await endpoint(visit),
    )


async def endpoint(visit: Visit, namespace: str = "") -> Endpoint | None:
    """The endpoint that has the models of `namespace`, else of the page's account; None while no enclave is there."""
    directory = await visit.ask(visit.plane.fleet.directory, visit.plane.site.name)
    return directory.home(namespace or visit.namespace)


ADDRESSES: Final = (
    Address("GET", HOME, home),
    Address("GET", ACCOUNT, overview_page, Action.VIEW),
)
