"""The keys of an account: which there are, making one, taking one out of force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from blindai.cloud.accounts import Action
from blindai.cloud.accounts.roles import ALLOWED
from blindai.cloud.console.visit import ACCOUNT, Address, Visit
from blindai.errors import BlindAIError, InvalidInput
from blindai.web.forms import Filled, see
from blindai.wire.cloud import Scope
from blindai.wire.cloud_api import KeyEntry, NewKey

if TYPE_CHECKING:
    from datetime import datetime

    from starlette.responses import Response

_log = structlog.get_logger("blindai.cloud")

# What the form offers; other lengths by the command line.
DAYS: Final = {"30": "30 days", "90": "90 days", "365": "a year", "": "until it is revoked"}
DEFAULT_DAYS: Final = "90"

MAX_NAME_CHARACTERS: Final = 64

# A box that is not ticked is not sent, and of each name only the last field is read: each has a name of its own.
SCOPE_FIELDS: Final = {f"scope-{scope.value}": scope for scope in Scope}

SCOPES: Final = {
    Scope.QUERY: "query models",
    Scope.UPLOAD: "upload models, share and publish them",
    Scope.DELETE: "delete models",
}

DONE: Final = {"revoked": "The key is revoked. Within five seconds it is refused everywhere."}

# What is wrong with a form, by the field that it stands at.
_NAME: Final = {"account.key_request": "name"}
_SCOPES: Final = {"account.key_request": "scopes"}
_EXPIRY: Final = {"account.key_request": "expires"}

_KEYS: Final = ACCOUNT + "/keys"


def in_force(key: KeyEntry, now: datetime) -> bool:
    """Whether `key` is good for anything."""
    return state(key, now) == "active"


def state(key: KeyEntry, now: datetime) -> str:
    """`active`, `expired` or `revoked`."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "active"


async def keys_page(visit: Visit) -> Response:
    """All keys, and the form that makes one."""
    return await _page(visit, Filled(given={"scope-query": "on", "expires": DEFAULT_DAYS}))


async def create(visit: Visit) -> Response:
    """Make a key, and show it."""
    try:
        new = _wanted(visit)
        made = await visit.ask(visit.plane.accounts.create_key, visit.person.id, visit.namespace, new)
    except _Refused as refused:
        return await _page(visit, Filled(given=visit.form, error=refused, fields=refused.fields))
    except BlindAIError as error:
        return await _page(visit, Filled(given=visit.form, error=error, fields=_NAME))
    _log.info("key_created", key=made.entry.id, namespace=visit.namespace, user=visit.person.id)
    return visit.page("key.html", api_key=made.api_key, entry=made.entry)


async def revoke_page(visit: Visit) -> Response:
    """Ask once more."""
    key = await _key(visit)
    return visit.page("revoke_key.html", key=key, state=state(key, visit.desk.now()))


async def revoke(visit: Visit) -> Response:
    """Take a key out of force."""
    accounts = visit.plane.accounts
    entry = await visit.ask(accounts.revoke_key, visit.person.id, visit.namespace, visit.part("key"))
    _log.info("key_revoked", key=entry.id, namespace=visit.namespace, user=visit.person.id)
    return see(visit.at("/keys?done=revoked"))


async def _page(visit: Visit, form: Filled) -> Response:
    accounts, person, now = visit.plane.accounts, visit.person, visit.desk.now()
    entries = await visit.ask(accounts.keys, person.id, visit.namespace)
    members = await visit.ask(accounts.members, person.id, visit.namespace)
    rows = [(key, state(key, now)) for key in entries]
    return visit.page(
        "keys.html",
        form=form,
        active=[row for row in rows if row[1] == "active"],
        ended=[row for row in rows if row[1] != "active"],
        makers={one.user: one.email for one in members} | {person.id: "you"},
        revokes_all=visit.role is not None and Action.ALL_KEYS in ALLOWED[visit.role],
        scopes=SCOPES,
        days=DAYS,
        max_name=MAX_NAME_CHARACTERS,
        done=DONE.get(visit.query("done")),
    )


async def _key(visit: Visit) -> KeyEntry:
    entries = await visit.ask(visit.plane.accounts.keys, visit.person.id, visit.namespace)
    for key in entries:
        if key.id == visit.part("key"):
            return key
    raise InvalidInput("the account has no such key", code="account.key_unknown")


class _Refused(InvalidInput):
    """A field of the form that no key can be made of."""

    def __init__(self, message: str, fields: dict[str, str]) -> None:
        super().__init__(message, code="account.key_request")
        self.fields = fields


def _wanted(visit: Visit) -> NewKey:
    """The key that the form asks for.

    Raises:
        _Refused: `account.key_request`.
    """
    name = visit.form.get("name", "").strip()
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS or not name.isprintable():
        raise _Refused(f"a name has 1 to {MAX_NAME_CHARACTERS} characters that can be seen", _NAME)
    scopes = tuple(scope for field, scope in SCOPE_FIELDS.items() if field in visit.form)
    if not scopes:
        raise _Refused("choose what the key is good for", _SCOPES)
    days = visit.form.get("expires", "")
    if days not in DAYS:
        raise _Refused("choose one of the lengths of time", _EXPIRY)
    return NewKey(name=name, scopes=scopes, expires_in_days=int(days) if days else None)


ADDRESSES: Final = (
    Address("GET", _KEYS, keys_page, Action.KEYS),
    Address("POST", _KEYS, create, Action.KEYS),
    Address("GET", _KEYS + "/{key}/revoke", revoke_page, Action.KEYS),
    Address("POST", _KEYS + "/{key}/revoke", revoke, Action.KEYS),
)
