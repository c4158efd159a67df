"""Signing up on one page, the link in the mail, and the way back for whoever forgot the password.

No page says whether an e-mail address is known: only the mail does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from blindai.cloud.console.ceremony import options
from blindai.cloud.console.sign_in import SIGN_IN
from blindai.cloud.console.visit import Address, Visit
from blindai.errors import BlindAIError
from blindai.web.forms import Filled, require_same, see
from blindai.web.passwords import MIN_CHARACTERS
from blindai.wire.cloud import NAMESPACE_RULE

if TYPE_CHECKING:
    from starlette.responses import Response

SIGN_UP: Final = "/sign-up"

_log = structlog.get_logger("blindai.cloud")

# Which field a refusal is about.
FIELDS: Final = {"identity.email": "email", "account.name": "name", "account.taken": "name", "password": "password"}
_NEW_PASSWORD: Final = {"password.repeat": "again", "password": "new"}


async def sign_up_page(visit: Visit) -> Response:
    """The form."""
    return _page(visit, Filled())


async def sign_up(visit: Visit) -> Response:
    """Take a sign-up by password. Nothing can be done with it before the link in the mail was followed."""
    given = visit.form
    email, password, name = given.get("email", ""), given.get("password", ""), given.get("name", "")
    try:
        await visit.hash(visit.plane.people.sign_up, email, password, name, address=visit.address)
    except BlindAIError as error:
        return _page(visit, Filled(given=given, error=error, fields=FIELDS))
    return _taken(visit)


async def passkey_options(visit: Visit) -> Response:
    """What the browser needs to make a passkey for a sign-up, as JSON."""
    email, name = visit.form.get("email", ""), visit.form.get("name", "")
    return await options(
        visit, visit.plane.people.sign_up_passkey_options, email, name, visitor=visit.cookie, address=visit.address
    )


async def sign_up_passkey(visit: Visit) -> Response:
    """Take a sign-up by passkey."""
    response = visit.form.get("response", "")
    try:
        await visit.hash(visit.plane.people.sign_up_passkey, visit.cookie, response, address=visit.address)
    except BlindAIError as error:
        return _page(visit, Filled(given=visit.form, error=error, fields=FIELDS))
    return _taken(visit)


async def mail_page(visit: Visit) -> Response:
    """Where to go on: in the mail."""
    return visit.page("mail.html", reset=False)


async def verify_page(visit: Visit) -> Response:
    """The link in the mail. Programs that look at mails follow links; what it does takes a press of a button."""
    return visit.page("verify.html", link=visit.query("link"))


async def verify(visit: Visit) -> Response:
    """Confirm the address."""
    link = visit.form.get("link", "")
    try:
        user = await visit.ask(visit.plane.people.verify, link)
    except BlindAIError as error:
        return visit.page("verify.html", link=link, form=Filled(error=error))
    _log.info("verified", user=user.id)
    return see(f"{SIGN_IN}?done=verified")


async def forgot_page(visit: Visit) -> Response:
    """The form that asks for a link to set another password."""
    return visit.page("forgot.html")


async def forgot(visit: Visit) -> Response:
    """Send that link, where the address is known."""
    try:
        await visit.hash(visit.plane.people.request_reset, visit.form.get("email", ""), address=visit.address)
    except BlindAIError as error:
        return visit.page("forgot.html", form=Filled(given=visit.form, error=error, fields=FIELDS))
    return see("/forgotten/mail")


async def forgot_mail_page(visit: Visit) -> Response:
    """Where to go on: in the mail."""
    return visit.page("mail.html", reset=True)


async def reset_page(visit: Visit) -> Response:
    """The form for another password."""
    return visit.page("reset.html", link=visit.query("link"), least=MIN_CHARACTERS)


async def reset(visit: Visit) -> Response:
    """Set another password, by the link. All sessions end."""
    link = visit.form.get("link", "")
    try:
        require_same(visit.form)
        user = await visit.hash(visit.plane.people.reset, link, visit.form.get("new", ""))
    except BlindAIError as error:
        form = Filled(error=error, fields=_NEW_PASSWORD)
        return visit.page("reset.html", form=form, link=link, least=MIN_CHARACTERS)
    _log.info("password_reset", user=user.id)
    return see(f"{SIGN_IN}?done=password")


def _page(visit: Visit, form: Filled) -> Response:
    return visit.page("sign_up.html", form=form, least=MIN_CHARACTERS, rule=NAMESPACE_RULE)


def _taken(visit: Visit) -> Response:
    _log.info("signed_up", address=visit.address)
    return see(f"{SIGN_UP}/mail")


OPEN: Final = (
    Address("GET", SIGN_UP, sign_up_page),
    Address("POST", SIGN_UP, sign_up),
    Address("GET", f"{SIGN_UP}/mail", mail_page),
    Address("POST", f"{SIGN_UP}/passkey/options", passkey_options),
    Address("POST", f"{SIGN_UP}/passkey", sign_up_passkey),
    Address("GET", "/verify", verify_page),
    Address("POST", "/verify", verify),
    Address("GET", "/forgotten", forgot_page),
    Address("POST", "/forgotten", forgot),
    Address("GET", "/forgotten/mail", forgot_mail_page),
    Address("GET", "/reset", reset_page),
    Address("POST", "/reset", reset),
)
