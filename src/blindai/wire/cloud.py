"""What an enclave and the control plane of its cloud say to each other. No tensor, no model and no digest of either.

    POST /v1/authorisations   AuthorisationRequest -> AuthorisationAnswer   who holds these keys, and what may they do
    POST /v1/reports          Report               -> Reported              counts, and which models there are

All of it travels on a connection in which the control plane has proved its key (`[cloud] public_key` of the enclave's
measured configuration) and the enclave has attested itself in the role `client`. An assertion is signed besides, and
answers one question of one enclave: it names the nonce of the question, and is worth nothing anywhere else.

Time: an assertion is good for `ttl_ms` of the enclave's monotonic clock, counted from when the enclave asked, because
the wall clock of an enclave is its host's. So a key that was revoked is refused everywhere after that time at the
latest, also where the control plane cannot be reached any more.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from blindai.crypto.digests import tagged
from blindai.wire.custody import Hex32, Hex64
from blindai.wire.metadata import TensorMetadata

VERSION: Final = 1

ASSERTION_DOMAIN: Final = "blindai/cloud-assertion/v1"

AUTHORISATIONS: Final = "/v1/authorisations"
REPORTS: Final = "/v1/reports"

# By which name the enclave asks to be judged at the control plane's gate: there is one policy for all of them.
AUDIENCE: Final = "cloud"

# Revoked keys are to be refused within five seconds everywhere; one is left for the way of the question.
MAX_TTL_MS: Final = 4_000

# Keys of one question. An enclave with more in use asks more than once.
MAX_KEYS: Final = 256

# Of one report, each; what is left over comes with the next one.
MAX_TOTALS: Final = 1_000
MAX_LISTINGS: Final = 200
MAX_SHARED_WITH: Final = 100
MAX_CLOSED: Final = 100

# An enclave reports at least this often, though nothing has changed: one that is silent for long leaves the directory.
SIGN_OF_LIFE_SECONDS: Final = 3600

# `MAX_LISTINGS` models with many inputs each.
MAX_MESSAGE_BYTES: Final = 1 << 20

# Stays below 2**53, the largest integer of the canonical encoding.
MAX_COUNT: Final = 10**15

NAMESPACE_RULE: Final = (
    "2 to 39 characters out of a-z, 0-9 and single hyphens between them; it begins with a letter or a digit"
)

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
Namespace = Annotated[str, msgspec.Meta(min_length=2, max_length=39, pattern=r"\A[a-z0-9]+(?:-[a-z0-9]+)*\Z")]
"""An account's name, and the first part of its models' ids. A subset of `model_id.RULE`, without look-alikes."""

KeyId = Annotated[str, msgspec.Meta(pattern=r"\Abai_sk_[0-9A-Za-z]{8}\Z")]
"""`api_key.ApiKey.id`."""


class Scope(StrEnum):
    """What a key is good for, in its own namespace; queries also for models that others share."""

    QUERY = "query"
    UPLOAD = "upload"
    DELETE = "delete"


class Visibility(StrEnum):
    """Who may query a model, besides its own account."""

    PRIVATE = "private"
    SHARED = "shared"
    PUBLIC = "public"


class Quotas(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an account may use. The limits in the enclave's measured configuration hold besides.

    Attributes:
        models: versions of models at one time.
        model_bytes: of all of them together.
        requests_per_minute: on each endpoint.
        requests_left: in this month, less what the control plane knows of; None without a limit.
    """

    models: Count
    model_bytes: Count
    requests_per_minute: Count
    requests_left: Count | None = None


class Assertion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who holds a key, and what they may do with it.

    Attributes:
        nonce: of the question that this answers.
        instance: digest of the keyset of the enclave that asked.
        key: digest of the key (`ApiKey.digest`).
        key_id: what to call it.
        namespace: the account.
        ttl_ms: how long this is good for, from when the question was asked.
    """

    v: Annotated[int, msgspec.Meta(ge=1, le=VERSION)] = VERSION
    nonce: Hex32
    instance: Hex32
    key: Hex32
    key_id: KeyId
    namespace: Namespace
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(max_length=len(Scope))]
    quotas: Quotas
    ttl_ms: Annotated[int, msgspec.Meta(ge=1, le=MAX_TTL_MS)] = MAX_TTL_MS

    @property
    def message(self) -> bytes:
        """What the control plane signs (Ed25519)."""
        return tagged(ASSERTION_DOMAIN, msgspec.to_builtins(self))


class SignedAssertion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An assertion with the control plane's signature."""

    assertion: Assertion
    signature: Hex64


class Refused(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key that is not in force.

    Attributes:
        code: `authentication.key`, for one that does not exist, was revoked, or has expired: nobody is told which.
    """

    key: Hex32
    code: Annotated[str, msgspec.Meta(max_length=64)] = "authentication.key"


class AuthorisationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who holds these keys?

    Attributes:
        nonce: 32 random bytes in hex, new for each question.
        keys: digests.
    """

    v: Annotated[int, msgspec.Meta(ge=1, le=VERSION)] = VERSION
    nonce: Hex32
    keys: Annotated[tuple[Hex32, ...], msgspec.Meta(min_length=1, max_length=MAX_KEYS)]


class AuthorisationAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For each key that was asked about, one or the other."""

    assertions: Annotated[tuple[SignedAssertion, ...], msgspec.Meta(max_length=MAX_KEYS)] = ()
    refused: Annotated[tuple[Refused, ...], msgspec.Meta(max_length=MAX_KEYS)] = ()


class UsageTotal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was done with one key since the instance began. Totals, so that a report that is repeated counts once.

    Attributes:
        namespace, key_id: whose; both empty for those who query public models without a key.
        queries: that were let through.
        failed: of these, that were answered with an error.
        limited: requests that were refused for a quota.
        uploads, deletions: that succeeded.
    """

    namespace: Namespace | None = None
    key_id: KeyId | None = None
    queries: Count = 0
    failed: Count = 0
    limited: Count = 0
    uploads: Count = 0
    deletions: Count = 0


class ModelListing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One version of a model on an endpoint, as its account's page shows it.

    Attributes:
        bytes: of the file that was uploaded.
        unused_ms: since the last query, or the upload; None where that is not known.
        deleted: it is there no more.
    """

    namespace: Namespace
    name: Annotated[str, msgspec.Meta(max_length=64)]
    version: Annotated[int, msgspec.Meta(ge=1, le=999_999_999)]
    bytes: Count = 0
    state: Annotated[str, msgspec.Meta(max_length=32)] = ""
    inputs: Annotated[tuple[TensorMetadata, ...], msgspec.Meta(max_length=256)] = ()
    outputs: Annotated[tuple[TensorMetadata, ...], msgspec.Meta(max_length=256)] = ()
    visibility: Visibility = Visibility.PRIVATE
    shared_with: Annotated[tuple[Namespace, ...], msgspec.Meta(max_length=MAX_SHARED_WITH)] = ()
    queries: Count = 0
    unused_ms: Count | None = None
    deleted: bool = False


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What has changed since the report before it that was acknowledged.

    Attributes:
        first: the first report of this instance: what earlier ones of its endpoint said of models holds no more.
    """

    v: Annotated[int, msgspec.Meta(ge=1, le=VERSION)] = VERSION
    first: bool = False
    totals: Annotated[tuple[UsageTotal, ...], msgspec.Meta(max_length=MAX_TOTALS)] = ()
    models: Annotated[tuple[ModelListing, ...], msgspec.Meta(max_length=MAX_LISTINGS)] = ()


class Reported(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The report is on the disk.

    Attributes:
        closed: accounts that are no more, of which the enclave still has models as far as is known: it deletes them.
            What is left over comes with the answer to the next report, which tells what was deleted.
    """

    closed: Annotated[tuple[Namespace, ...], msgspec.Meta(max_length=MAX_CLOSED)] = ()


class ModelVisibility(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may query a model: body and answer of `/v2/repository/models/{namespace}/{name}/visibility`.

    Attributes:
        shared_with: the accounts, where it is shared; else none.
    """

    visibility: Visibility
    shared_with: Annotated[tuple[Namespace, ...], msgspec.Meta(max_length=MAX_SHARED_WITH)] = ()
