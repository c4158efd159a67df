"""What an account may be called. A name is the first part of its models' ids, and is never given a second time."""

from __future__ import annotations

import re
from typing import Final

from blindai.errors import InvalidInput
from blindai.wire.cloud import NAMESPACE_RULE

# `wire.cloud.Namespace`, which a test holds this to.
NAME: Final = re.compile(r"(?=.{2,39}\Z)[a-z0-9]+(?:-[a-z0-9]+)*", re.ASCII)

RESERVED: Final = frozenset(
    {
        # What stands in addresses beside accounts, or is likely to.
        "account",
        "accounts",
        "anonymous",
        "api",
        "assets",
        "console",
        "device",
        "devices",
        "docs",
        "download",
        "downloads",
        "fleet",
        "health",
        "help",
        "invitation",
        "invitations",
        "keys",
        "login",
        "logout",
        "me",
        "metrics",
        "models",
        "new",
        "organisations",
        "organizations",
        "playground",
        "ready",
        "repository",
        "sign-in",
        "sign-out",
        "sign-up",
        "signin",
        "signup",
        "static",
        "stats",
        "status",
        "usage",
        "v1",
        "v2",
        # What the enclave calls models that are nobody's account's: those on loan, and those that come with it.
        "leased",
        "public",
        "private",
        "shared",
        # Whom a user would believe to be the operator.
        "admin",
        "administrator",
        "billing",
        "blindai",
        "cloud",
        "custodian",
        "enclave",
        "operator",
        "owner",
        "root",
        "security",
        "staff",
        "support",
        "system",
        # Mailboxes and hosts that mean somebody in particular (RFC 2142).
        "abuse",
        "ftp",
        "hostmaster",
        "info",
        "localhost",
        "mail",
        "noc",
        "noreply",
        "postmaster",
        "webmaster",
        "www",
        # What programs print where there is no name.
        "nil",
        "none",
        "null",
        "undefined",
        "unknown",
    }
)


def is_name(text: str) -> bool:
    """Whether `text` can be the name of an account. What cannot be is never looked up."""
    return NAME.fullmatch(text) is not None


def require_free_form(name: str) -> None:
    """Refuse what nobody may call an account.

    Raises:
        InvalidInput: `account.name`; `account.taken`, for a name that is reserved.
    """
    if not is_name(name):
        raise InvalidInput(f"the name of an account has {NAMESPACE_RULE}", code="account.name")
    if name in RESERVED:
        raise taken(name)


def taken(name: str) -> InvalidInput:
    """The refusal of a name that is, or was, somebody else's, or is kept back."""
    return InvalidInput(f"the name {name} is taken", code="account.taken", hint="choose another name")
