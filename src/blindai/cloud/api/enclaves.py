"""Where the enclaves are, and what they report of an account: models and counts."""

from __future__ import annotations

from blindai.cloud.accounts import Action
from blindai.cloud.api.call import Call
from blindai.wire.cloud_api import Directory, ModelList, UsageReport


async def directory(call: Call) -> Directory:
    """The endpoints, as the operator lists them."""
    return await call.ask(call.plane.fleet.directory, call.plane.site.name)


async def models(call: Call) -> ModelList:
    """What is stored in the enclaves under the name of an account."""
    return ModelList(await call.ask(call.plane.fleet.models, await _required(call, Action.VIEW)))


async def usage(call: Call) -> UsageReport:
    """Counts of an account, and its limits."""
    return await call.ask(call.plane.fleet.usage, await _required(call, Action.VIEW))


async def _required(call: Call, action: Action) -> str:
    """The account that the path names, whose member may do this."""
    namespace = call.part("namespace")
    await call.ask(call.plane.accounts.require, call.signed_in.id, namespace, action)
    return namespace
