"""The control plane's JSON interface, below `/api/v1`, as the command line and the SDK use it. Errors are problems.

    GET    /directory                                        -> Directory             no sign-in
    POST   /device/codes                    DeviceRequest    -> DeviceCodes           no sign-in (RFC 8628, section 3.1)
    POST   /device/tokens                   DeviceCode       -> AccessToken           no sign-in (section 3.4)
    DELETE /token                                            -> 204                   gives the access token back
    GET    /account                                          -> Account
    GET    /namespaces/{namespace}/keys                      -> KeyList
    POST   /namespaces/{namespace}/keys     NewKey           -> CreatedKey
    DELETE /namespaces/{namespace}/keys/{key}                -> KeyEntry
    GET    /namespaces/{namespace}/models                    -> ModelList
    GET    /namespaces/{namespace}/usage                     -> UsageReport

All but the first three take an access token as a bearer token (RFC 6750). Times are RFC 3339, in UTC. The same for
machines, with all refusals, is at `/openapi.json` below the same prefix.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Final

import msgspec

from blindai.wire.cloud import KeyId, ModelListing, Namespace, Scope

PREFIX: Final = "/api/v1"

# A request has a name and a few words.
MAX_REQUEST_BYTES: Final = 16 << 10

TOKEN_PREFIX: Final = "bai_at_"  # noqa: S105 - what tokens begin with

# Codes of `POST /device/tokens` while there is no token (RFC 8628, section 3.5, as problems).
PENDING: Final = "device.authorization_pending"
SLOW_DOWN: Final = "device.slow_down"
DENIED: Final = "device.access_denied"
EXPIRED: Final = "device.expired_token"

# Control characters, and those that nobody sees but that change how others are shown (Unicode Technical Report 36,
# section 2.5): a stranger's name of a device must not turn around the sentence that asks whether to let it in.
_UNSEEN: Final = (
    r"\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e0fff"
)
# Halves of a pair of UTF-16. JSON brings none here; forms and programs might.
SURROGATES: Final = r"\ud800-\udfff"

Label = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=64,
        pattern=rf"\A[^\s{_UNSEEN}{SURROGATES}](?:[^{_UNSEEN}{SURROGATES}]*[^\s{_UNSEEN}{SURROGATES}])?\Z",
    ),
]
"""What people call a thing of theirs: what can be seen, with a blank neither first nor last."""

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time, to the second."""


class Endpoint(msgspec.Struct, frozen=True):
    """Where an enclave answers. That it is one, the client makes sure of by itself.

    Attributes:
        address: `https://host:port`.
        simulated: whether the control plane saw the simulated platform.
    """

    address: str
    simulated: bool


class Directory(msgspec.Struct, frozen=True):
    """The endpoints of a cloud. It is the operator's word, and decides nothing but where to ask.

    Attributes:
        name: of the cloud, for people.
        endpoints: in no particular order; empty while no enclave is there.
    """

    name: str
    endpoints: tuple[Endpoint, ...]

    def home(self, namespace: str) -> Endpoint | None:
        """The endpoint that has the models of `namespace`.

        Everybody comes to the same one without asking anybody, so that the directory need not say which accounts there
        are; and one more endpoint moves no other account than those that it takes (rendezvous hashing, Thaler and
        Ravishankar, 1998).
        """
        return max(
            self.endpoints,
            key=lambda one: hashlib.sha256(f"{one.address}\n{namespace}".encode()).digest(),
            default=None,
        )


class DeviceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command line that wants to sign in; `name` is what its user will see it called."""

    name: Label


class DeviceCodes(msgspec.Struct, frozen=True):
    """As RFC 8628, section 3.2."""

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in: int
    interval: int


class DeviceCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The code that came with `DeviceCodes`."""

    device_code: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class AccessToken(msgspec.Struct, frozen=True):
    """A token of a command line. It manages keys and reads counts; it is no API key and opens no model."""

    access_token: str

    def __repr__(self) -> str:
        return "AccessToken()"


class Membership(msgspec.Struct, frozen=True):
    """An account that somebody works in, and as what: `viewer`, `developer` or `admin`."""

    namespace: str
    kind: str
    role: str


class Account(msgspec.Struct, frozen=True):
    """Who is signed in."""

    email: str
    namespaces: tuple[Membership, ...]


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be made.

    Attributes:
        expires_in_days: without it the key is good until it is revoked.
    """

    name: Label
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1, max_length=len(Scope))] = (Scope.QUERY,)
    expires_in_days: Annotated[int, msgspec.Meta(ge=1, le=3650)] | None = None


class KeyEntry(msgspec.Struct, frozen=True):
    """What is kept of a key.

    Attributes:
        made_by: id of the user who made it.
    """

    id: KeyId
    namespace: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: Moment
    expires_at: Moment | None = None
    used_at: Moment | None = None
    revoked_at: Moment | None = None
    made_by: str = ""


class KeyList(msgspec.Struct, frozen=True):
    """The keys of an account, the newest first."""

    keys: tuple[KeyEntry, ...]


class CreatedKey(msgspec.Struct, frozen=True):
    """A new key, the only time that it is shown."""

    api_key: str
    entry: KeyEntry

    def __repr__(self) -> str:
        return f"CreatedKey({self.entry.id})"


class ListedModel(msgspec.Struct, frozen=True):
    """A model, where it is, and when it was last used."""

    endpoint: str
    listing: ModelListing
    used_at: Moment | None = None


class ModelList(msgspec.Struct, frozen=True):
    """The models of an account, as its enclaves report them."""

    models: tuple[ListedModel, ...]


class UsageHour(msgspec.Struct, frozen=True):
    """What an account did in one hour."""

    hour: Moment
    queries: int = 0
    failed: int = 0
    limited: int = 0
    uploads: int = 0
    deletions: int = 0


class UsageReport(msgspec.Struct, frozen=True):
    """What an account uses and may use.

    Attributes:
        month_queries: since the month began, in UTC.
        per_month: what it may; None without a limit.
        hours: of the last 30 days, without those in which nothing was done; the oldest first.
    """

    namespace: Namespace
    models: int
    max_models: int
    bytes: int
    max_bytes: int
    per_minute: int
    month_queries: int
    per_month: int | None
    hours: tuple[UsageHour, ...]
