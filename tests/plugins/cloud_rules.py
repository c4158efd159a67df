"""What a control plane's routes ask of whoever calls them, and what they answer: written down for tests.

`Least` is written down here once more, apart from the code's own tables, so that a route that asks for less than it
should is seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from blindai.wire.cloud_api import PREFIX
from cloud_scene import PASSWORD


class Least(IntEnum):
    """Who gets through: these, and whoever stands below them."""

    ANYBODY = 0
    SIGNED_IN = 1
    VIEWER = 2
    DEVELOPER = 3
    ADMIN = 4


@dataclass(frozen=True)
class Rule:
    """What is sent to a route, and what whoever gets through is answered.

    Attributes:
        answer: status for those who get through.
        form, body: what is sent; `{role}` in it is the name of who sends it.
    """

    least: Least
    answer: int
    form: dict[str, str] = field(default_factory=dict)
    body: Any = None


ACCOUNT: Final = "/accounts/{namespace}"
_N: Final = f"{PREFIX}/namespaces/{{namespace}}"

# In the order in which they are tried: what ends an account comes last.
RULES: Final[dict[str, Rule]] = {
    # The JSON interface.
    f"GET {PREFIX}/openapi.json": Rule(Least.ANYBODY, 200),
    f"GET {PREFIX}/directory": Rule(Least.ANYBODY, 200),
    f"POST {PREFIX}/device/codes": Rule(Least.ANYBODY, 200, body={"name": "laptop"}),
    f"POST {PREFIX}/device/tokens": Rule(Least.ANYBODY, 400, body={"device_code": "unknown"}),
    f"GET {PREFIX}/account": Rule(Least.SIGNED_IN, 200),
    f"DELETE {PREFIX}/token": Rule(Least.SIGNED_IN, 204),
    f"GET {_N}/models": Rule(Least.VIEWER, 200),
    f"GET {_N}/usage": Rule(Least.VIEWER, 200),
    f"GET {_N}/keys": Rule(Least.DEVELOPER, 200),
    f"POST {_N}/keys": Rule(Least.DEVELOPER, 201, body={"name": "a key"}),
    # Pages for everybody.
    "GET /sign-in": Rule(Least.ANYBODY, 200),
    "POST /sign-in": Rule(Least.ANYBODY, 401, {"email": "{role}@example.com", "password": "wrong"}),
    "POST /sign-in/passkey/options": Rule(Least.ANYBODY, 200),
    "POST /sign-in/passkey": Rule(Least.ANYBODY, 400, {"response": "{}"}),
    "GET /sign-up": Rule(Least.ANYBODY, 200),
    "POST /sign-up": Rule(
        Least.ANYBODY, 303, {"email": "new-{role}@example.com", "password": PASSWORD, "name": "new-{role}"}
    ),
    "GET /sign-up/mail": Rule(Least.ANYBODY, 200),
    "POST /sign-up/passkey/options": Rule(
        Least.ANYBODY, 200, {"email": "key-{role}@example.com", "name": "key-{role}"}
    ),
    "POST /sign-up/passkey": Rule(Least.ANYBODY, 400, {"response": "{}"}),
    "GET /verify": Rule(Least.ANYBODY, 200),
    "POST /verify": Rule(Least.ANYBODY, 400, {"link": "unknown"}),
    "GET /forgotten": Rule(Least.ANYBODY, 200),
    "POST /forgotten": Rule(Least.ANYBODY, 303, {"email": "nobody-{role}@example.com"}),
    "GET /forgotten/mail": Rule(Least.ANYBODY, 200),
    "GET /reset": Rule(Least.ANYBODY, 200),
    "POST /reset": Rule(Least.ANYBODY, 400, {"link": "unknown", "new": PASSWORD + "!", "again": PASSWORD + "!"}),
    # A person's own.
    "GET /": Rule(Least.SIGNED_IN, 303),
    "GET /account": Rule(Least.SIGNED_IN, 200),
    "POST /account/passkeys/options": Rule(Least.SIGNED_IN, 200),
    "POST /account/passkeys": Rule(Least.SIGNED_IN, 400, {"response": "{}", "passkey-name": "mine"}),
    "POST /account/passkeys/remove": Rule(Least.SIGNED_IN, 404, {"passkey": "unknown"}),
    "POST /account/tokens/revoke": Rule(Least.SIGNED_IN, 404, {"token": "unknown"}),
    "GET /account/export": Rule(Least.SIGNED_IN, 200),
    "GET /account/leave": Rule(Least.SIGNED_IN, 200),
    "POST /account/leave": Rule(Least.SIGNED_IN, 400, {"email": "other@example.com"}),
    "GET /organisations/new": Rule(Least.SIGNED_IN, 200),
    "POST /organisations/new": Rule(Least.SIGNED_IN, 303, {"name": "made-by-{role}"}),
    "GET /invitation": Rule(Least.SIGNED_IN, 200),
    "POST /invitation": Rule(Least.SIGNED_IN, 404, {"link": "unknown"}),
    "GET /device": Rule(Least.SIGNED_IN, 200),
    "POST /device": Rule(Least.SIGNED_IN, 404, {"code": "BCDF-GHJK", "decision": "approve"}),
    # Pages of an account.
    f"GET {ACCOUNT}": Rule(Least.VIEWER, 200),
    f"GET {ACCOUNT}/models": Rule(Least.VIEWER, 200),
    f"GET {ACCOUNT}/usage": Rule(Least.VIEWER, 200),
    f"GET {ACCOUNT}/usage/counts": Rule(Least.VIEWER, 200),
    f"GET {ACCOUNT}/enclaves": Rule(Least.VIEWER, 200),
    f"GET {ACCOUNT}/playground": Rule(Least.VIEWER, 200),
    f"GET {ACCOUNT}/members": Rule(Least.VIEWER, 200),
    f"GET {ACCOUNT}/members/{{member}}/remove": Rule(Least.VIEWER, 200),
    f"GET {ACCOUNT}/keys": Rule(Least.DEVELOPER, 200),
    f"POST {ACCOUNT}/keys": Rule(Least.DEVELOPER, 200, {"name": "a key", "scope-query": "on", "expires": ""}),
    f"GET {ACCOUNT}/keys/{{key}}/revoke": Rule(Least.DEVELOPER, 200),
    f"POST {ACCOUNT}/keys/{{key}}/revoke": Rule(Least.DEVELOPER, 303),
    f"GET {ACCOUNT}/audit": Rule(Least.ADMIN, 200),
    f"POST {ACCOUNT}/invitations": Rule(Least.ADMIN, 303, {"email": "guest@example.com", "role": "viewer"}),
    f"POST {ACCOUNT}/invitations/withdraw": Rule(Least.ADMIN, 303, {"email": "guest@example.com"}),
    f"POST {ACCOUNT}/members/{{member}}/role": Rule(Least.ADMIN, 303, {"role": "developer"}),
    # Of somebody else. Everybody may remove themselves.
    f"POST {ACCOUNT}/members/{{member}}/remove": Rule(Least.ADMIN, 303),
    f"GET {ACCOUNT}/close": Rule(Least.ADMIN, 200),
    # What ends something.
    f"DELETE {_N}/keys/{{key}}": Rule(Least.DEVELOPER, 200),
    f"POST {ACCOUNT}/close": Rule(Least.ADMIN, 303, {"name": "of-{role}"}),
    "POST /account/password": Rule(
        Least.SIGNED_IN, 303, {"old": PASSWORD, "new": PASSWORD + "!", "again": PASSWORD + "!"}
    ),
    "POST /sign-out": Rule(Least.SIGNED_IN, 303),
    "POST /account/sign-out-everywhere": Rule(Least.SIGNED_IN, 303),
}
