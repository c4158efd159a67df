"""Accounts and their keys. Who may do what is decided in `Accounts`, in the transaction that does it."""

from __future__ import annotations

from blindai.cloud.api.call import Call
from blindai.wire.cloud_api import Account, CreatedKey, KeyEntry, KeyList, NewKey


async def account(call: Call) -> Account:
    """Who the token belongs to, and where they work."""
    user = call.signed_in
    return Account(user.email, await call.ask(call.plane.accounts.memberships, user.id))


async def keys(call: Call) -> KeyList:
    """All keys of an account."""
    return KeyList(await call.ask(call.plane.accounts.keys, call.signed_in.id, call.part("namespace")))


async def create_key(call: Call) -> CreatedKey:
    """A new key, shown this once."""
    asked = await call.read(NewKey)
    return await call.ask(call.plane.accounts.create_key, call.signed_in.id, call.part("namespace"), asked)


async def revoke_key(call: Call) -> KeyEntry:
    """Take a key out of force."""
    return await call.ask(call.plane.accounts.revoke_key, call.signed_in.id, call.part("namespace"), call.part("key"))
