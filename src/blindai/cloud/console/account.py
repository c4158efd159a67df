"""A person's own page: password, passkeys, signed-in command lines, what is kept about them, and leaving."""

from __future__ import annotations

import json
from typing import Final

import structlog
from starlette.responses import Response

from blindai.cloud.console.ceremony import options
from blindai.cloud.console.sign_in import SIGN_IN, ended
from blindai.cloud.console.visit import Address, Visit
from blindai.errors import BlindAIError
from blindai.web.forms import Filled, require_same, see
from blindai.web.passwords import MIN_CHARACTERS

PAGE: Final = "/account"

_log = structlog.get_logger("blindai.cloud")

DONE: Final = {
    "password": "The password was changed. Other browsers and command lines were signed out.",
    "passkey": "The passkey was added.",
    "passkey-removed": "The passkey was removed.",
    "token": "The command line was signed out.",
}

_PASSWORD_FIELDS: Final = {"authentication.password": "old", "password.repeat": "again", "password": "new"}
_PASSKEY_FIELDS: Final = {"identity.passkey_name": "passkey-name"}
_LEAVE_FIELDS: Final = {"identity.confirmation": "email"}


async def account_page(visit: Visit) -> Response:
    """All about the person."""
    return await _page(visit)


async def change_password(visit: Visit) -> Response:
    """Change the password, which takes the old one. Other sessions end."""
    given = visit.form
    try:
        require_same(given)
        old, new = given.get("old", ""), given.get("new", "")
        await visit.hash(visit.plane.people.change_password, visit.person.id, old, new, keep=visit.cookie)
    except BlindAIError as error:
        return await _page(visit, Filled(error=error, fields=_PASSWORD_FIELDS))
    _log.info("password_changed", user=visit.person.id)
    return see(f"{PAGE}?done=password")


async def passkey_options(visit: Visit) -> Response:
    """What the browser needs to make another passkey, as JSON."""
    return await options(visit, visit.plane.people.add_passkey_options, visit.person.id, visit.cookie)


async def add_passkey(visit: Visit) -> Response:
    """Keep another passkey."""
    given = visit.form
    try:
        await visit.ask(
            visit.plane.people.add_passkey,
            visit.person.id,
            visit.cookie,
            given.get("response", ""),
            given.get("passkey-name", ""),
        )
    except BlindAIError as error:
        return await _page(visit, Filled(given=given, error=error, fields=_PASSKEY_FIELDS))
    _log.info("passkey_added", user=visit.person.id)
    return see(f"{PAGE}?done=passkey")


async def remove_passkey(visit: Visit) -> Response:
    """Forget a passkey."""
    try:
        await visit.ask(visit.plane.people.remove_passkey, visit.person.id, visit.form.get("passkey", ""))
    except BlindAIError as error:
        return await _page(visit, Filled(error=error))
    _log.info("passkey_removed", user=visit.person.id)
    return see(f"{PAGE}?done=passkey-removed")


async def revoke_token(visit: Visit) -> Response:
    """Sign a command line out."""
    try:
        await visit.ask(visit.plane.people.revoke_token, visit.person.id, visit.form.get("token", ""))
    except BlindAIError as error:
        return await _page(visit, Filled(error=error))
    _log.info("token_revoked", user=visit.person.id)
    return see(f"{PAGE}?done=token")


async def sign_out_everywhere(visit: Visit) -> Response:
    """End all sessions, this one too, and sign out all command lines."""
    await visit.ask(visit.plane.people.sign_out_everywhere, visit.person.id)
    _log.info("signed_out_everywhere", user=visit.person.id)
    return ended(see(f"{SIGN_IN}?done=everywhere"))


async def export(visit: Visit) -> Response:
    """All that is kept about the person, as a file."""
    kept = await visit.ask(visit.plane.people.export, visit.person.id)
    return Response(
        json.dumps(kept, indent=2, ensure_ascii=False) + "\n",
        media_type="application/json",
        headers={"content-disposition": 'attachment; filename="blindai-export.json"'},
    )


async def leave_page(visit: Visit) -> Response:
    """What will be lost, and the form that asks for the e-mail address once more."""
    return visit.page("leave.html")


async def leave(visit: Visit) -> Response:
    """Delete the person."""
    given = visit.form
    try:
        await visit.ask(visit.plane.people.leave, visit.person.id, confirm_email=given.get("email", ""))
    except BlindAIError as error:
        return visit.page("leave.html", form=Filled(given=given, error=error, fields=_LEAVE_FIELDS))
    _log.info("left", user=visit.person.id)
    return ended(see(f"{SIGN_IN}?done=left"))


async def _page(visit: Visit, form: Filled | None = None) -> Response:
    people = visit.plane.people
    return visit.page(
        "account.html",
        form=form or Filled(),
        passkeys=await visit.ask(people.passkeys, visit.person.id),
        tokens=await visit.ask(people.tokens, visit.person.id),
        least=MIN_CHARACTERS,
        done=DONE.get(visit.query("done")),
    )


ADDRESSES: Final = (
    Address("GET", PAGE, account_page),
    Address("POST", f"{PAGE}/password", change_password),
    Address("POST", f"{PAGE}/passkeys/options", passkey_options),
    Address("POST", f"{PAGE}/passkeys", add_passkey),
    Address("POST", f"{PAGE}/passkeys/remove", remove_passkey),
    Address("POST", f"{PAGE}/tokens/revoke", revoke_token),
    Address("POST", f"{PAGE}/sign-out-everywhere", sign_out_everywhere),
    Address("GET", f"{PAGE}/export", export),
    Address("GET", f"{PAGE}/leave", leave_page),
    Address("POST", f"{PAGE}/leave", leave),
)
