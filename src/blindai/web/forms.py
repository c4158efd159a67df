"""What browsers send with a form, and where they are sent afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

from starlette.responses import RedirectResponse, Response

from blindai.errors import BlindAIError, InvalidInput
from blindai.web.throttle import Throttled

if TYPE_CHECKING:
    from starlette.requests import Request

# The longest form holds a reason and a password.
MAX_FORM_BYTES: Final = 16 << 10
MAX_FORM_FIELDS: Final = 16


# What a form that comes back does not hold any more.
SECRET_FIELDS: Final = frozenset({"password", "old", "new", "again"})


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A form as its page shows it: empty, or refused, with what was typed and the reason beside the field.

    Attributes:
        given: the fields that were sent.
        error: why it was refused.
        fields: which field an error is about, by its code or by its code's family.
    """

    given: Mapping[str, str] = field(default_factory=dict)
    error: BlindAIError | None = None
    fields: Mapping[str, str] = field(default_factory=dict)

    def value(self, name: str, default: str = "") -> str:
        """What was typed into the field `name`, unless it is a secret."""
        return default if name in SECRET_FIELDS else self.given.get(name, default)

    @property
    def _field(self) -> str:
        if self.error is None:
            return ""
        return self.fields.get(self.error.code) or self.fields.get(self.error.code.partition(".")[0], "")

    def error_of(self, name: str) -> BlindAIError | None:
        """What is wrong with the field `name`."""
        return self.error if self._field == name else None

    @property
    def general(self) -> BlindAIError | None:
        """What is wrong, where it is about no field."""
        return None if self._field else self.error


def require_same(form: Mapping[str, str]) -> None:
    """Refuse a new password (`new`) that was not typed twice alike (`again`).

    Raises:
        InvalidInput: `password.repeat`.
    """
    if form.get("new", "") != form.get("again", ""):
        raise InvalidInput("the two new passwords differ", code="password.repeat")


def see(address: str) -> Response:
    """Send the browser to another page of ours, by GET."""
    return RedirectResponse(address, status_code=303)


def delete_cookie(answer: Response, name: str) -> None:
    """Let the browser forget a cookie that was set with the `__Host-` prefix."""
    answer.delete_cookie(name, path="/", secure=True, httponly=True, samesite="strict")


def headers_of_refusal(error: BlindAIError) -> dict[str, str]:
    """The headers of a page that says `error`."""
    return {"retry-after": str(error.retry_after)} if isinstance(error, Throttled) else {}


def safe_next(address: str, *, home: str) -> str:
    """`address` if it is a page of ours, else `home`: a link to the sign-in page must not lead elsewhere."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return home
    ours = (
        address.startswith("/")
        and not address.startswith("//")
        and not (parts.scheme or parts.netloc)
        # Browsers read "\" as "/", and leave out tabs and line ends.
        and "\\" not in address
        and address.isascii()
        and address.isprintable()
    )
    return address if ours else home


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form; the last one of each name.

    Raises:
        InvalidInput: `input.form`.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise InvalidInput(f"a form has at most {MAX_FORM_BYTES} bytes", code="input.form")
    try:
        return dict(
            parse_qsl(
                body.decode("ascii"),
                keep_blank_values=True,
                max_num_fields=MAX_FORM_FIELDS,
                encoding="utf-8",
                errors="strict",
            )
        )
    except ValueError as error:
        raise InvalidInput("this is no form of ours", code="input.form") from error
