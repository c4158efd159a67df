"""The models of an account, as its enclaves report them."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from blindai.cloud.accounts import Action
from blindai.cloud.console.overview import endpoint
from blindai.cloud.console.visit import ACCOUNT, Address, Visit

if TYPE_CHECKING:
    from starlette.responses import Response


async def models_page(visit: Visit) -> Response:
    """Every version of every model; where there is none, how to upload one."""
    listed = await visit.ask(visit.plane.fleet.models, visit.namespace)
    usage = await visit.ask(visit.plane.fleet.usage, visit.namespace)
    # They come sorted by name.
    by_name = {name: tuple(versions) for name, versions in groupby(listed, key=lambda one: one.listing.name)}
    return visit.page("models.html", models=by_name, usage=usage, endpoint=await endpoint(visit))


ADDRESSES: Final = (Address("GET", ACCOUNT + "/models", models_page, Action.VIEW),)
