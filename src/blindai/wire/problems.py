"""Errors on the wire: one table from stable codes to HTTP statuses and error classes, read by both ends.

A problem is the JSON object `{"error": message, "code": code}`, with `"hint"` where there is one and the
figures of a budget where the error has them. The server turns an error into a status with `status_of` and
into a body with `problem_body`; the client turns both back into the same class with `error_from`. Below `/v1/` the
same problem has another form: see `wire.openai`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from blindai.errors import (
    AuthenticationError,
    BlindAIError,
    BudgetExhausted,
    InvalidInput,
    InvalidModel,
    LeaseExpired,
    LeaseStopped,
    ModelNotFound,
    PermissionDenied,
    QuotaExceeded,
    Unavailable,
)

CONTENT_TYPE: Final = "application/json"
PLATFORM_HEADER: Final = "blindai-platform"

# A problem is a sentence and a code. A longer body is not one of ours and is not worth parsing.
MAX_PROBLEM_BYTES: Final = 64 * 1024


class Problem(NamedTuple):
    """What one code means: the HTTP status it travels with and the class it is raised as."""

    status: int
    kind: type[BlindAIError]


PROBLEMS: Final[dict[str, Problem]] = {
    # Framing and routing of HTTP itself.
    "http.request": Problem(400, InvalidInput),
    "http.target": Problem(400, InvalidInput),
    "http.content_length": Problem(400, InvalidInput),
    "http.transfer_encoding": Problem(400, InvalidInput),
    "http.trailers": Problem(400, InvalidInput),
    "http.upgrade": Problem(400, InvalidInput),
    "http.pipelining": Problem(400, InvalidInput),
    "http.not_found": Problem(404, InvalidInput),
    "http.method": Problem(405, InvalidInput),
    "http.not_acceptable": Problem(406, InvalidInput),
    "http.timeout": Problem(408, Unavailable),
    "http.url_too_long": Problem(414, InvalidInput),
    "http.content_encoding": Problem(415, InvalidInput),
    "http.content_type": Problem(415, InvalidInput),
    "http.expect": Problem(417, InvalidInput),
    "http.headers_too_large": Problem(431, InvalidInput),
    # Models. What is wrong with a file itself is any other `model.*` code: 400, InvalidModel.
    "model.id": Problem(400, InvalidInput),
    "model.version": Problem(400, InvalidInput),
    "model.not_found": Problem(404, ModelNotFound),
    "model.not_loaded": Problem(404, ModelNotFound),
    "model.version_exists": Problem(409, InvalidModel),
    "model.content_type": Problem(415, InvalidModel),
    "model.store_damaged": Problem(500, InvalidModel),
    "model.task": Problem(409, InvalidInput),
    # Limits: 413 where another request would fit, 507 where the enclave itself is full.
    "quota.body": Problem(413, QuotaExceeded),
    "quota.model_size": Problem(413, QuotaExceeded),
    "quota.texts": Problem(413, QuotaExceeded),
    "quota.text_size": Problem(413, QuotaExceeded),
    "quota.memory": Problem(507, QuotaExceeded),
    "quota.models": Problem(507, QuotaExceeded),
    "quota.namespace_models": Problem(507, QuotaExceeded),
    "quota.namespace_bytes": Problem(507, QuotaExceeded),
    "quota.store": Problem(507, QuotaExceeded),
    "quota.run_memory": Problem(413, QuotaExceeded),
    "quota.run_time": Problem(504, QuotaExceeded),
    "quota.load_time": Problem(504, QuotaExceeded),
    "quota.queue": Problem(429, QuotaExceeded),
    "quota.requests": Problem(429, QuotaExceeded),
    "deadline": Problem(504, Unavailable),
    # A leased model.
    "lease.waiting": Problem(503, Unavailable),
    "lease.paused": Problem(403, LeaseStopped),
    "lease.stopped": Problem(403, LeaseStopped),
    "lease.quarantined": Problem(403, LeaseStopped),
    "lease.expired": Problem(403, LeaseExpired),
    "lease.budget_exhausted": Problem(402, BudgetExhausted),
    "lease.managed": Problem(409, InvalidInput),
    "lease.none": Problem(404, InvalidInput),
    # What a custodian answers to an enclave.
    "lease.unknown": Problem(404, InvalidInput),
    "lease.config": Problem(403, PermissionDenied),
    "lease.foreign": Problem(403, PermissionDenied),
    "lease.instance": Problem(403, PermissionDenied),
    "lease.keyset": Problem(403, PermissionDenied),
    "lease.attestation": Problem(403, PermissionDenied),
    "lease.not_admitted": Problem(403, PermissionDenied),
    "lease.admissions": Problem(429, QuotaExceeded),
    "lease.instances": Problem(409, Unavailable),
    "lease.forked": Problem(403, LeaseStopped),
    "lease.overspent": Problem(403, LeaseStopped),
    "lease.closed": Problem(409, InvalidInput),
    "lease.superseded": Problem(409, InvalidInput),
    "lease.consumer": Problem(404, InvalidInput),
    "lease.record": Problem(400, InvalidInput),
    "lease.record_gap": Problem(409, InvalidInput),
    "lease.version": Problem(409, InvalidInput),
    # What a control plane answers to an enclave.
    "fleet.audience": Problem(404, InvalidInput),
    "fleet.config": Problem(403, PermissionDenied),
    "fleet.attestation": Problem(403, PermissionDenied),
    "fleet.instance": Problem(403, PermissionDenied),
    "fleet.totals": Problem(409, InvalidInput),
    "authentication.token": Problem(401, AuthenticationError),
    # Who may do what in an enclave of a cloud.
    "authentication.required": Problem(401, AuthenticationError),
    "authentication.key": Problem(401, AuthenticationError),
    "authentication.key_format": Problem(401, AuthenticationError),
    "authentication.rate": Problem(429, QuotaExceeded),
    "permission.namespace": Problem(403, PermissionDenied),
    "permission.scope": Problem(403, PermissionDenied),
    "permission.metrics": Problem(403, PermissionDenied),
    "quota.requests_per_minute": Problem(429, QuotaExceeded),
    "quota.requests_per_month": Problem(429, QuotaExceeded),
    "quota.account_models": Problem(429, QuotaExceeded),
    "quota.account_bytes": Problem(429, QuotaExceeded),
    "unavailable.cloud": Problem(503, Unavailable),
    "cloud.none": Problem(404, InvalidInput),
    # What the control plane of a cloud answers to a command line that waits for its user (RFC 8628, section 3.5).
    "device.authorization_pending": Problem(400, AuthenticationError),
    "device.slow_down": Problem(400, AuthenticationError),
    "device.access_denied": Problem(400, AuthenticationError),
    "device.expired_token": Problem(400, AuthenticationError),
    "authentication.access_token": Problem(401, AuthenticationError),
    # And about accounts, members and keys.
    "account.name": Problem(400, InvalidInput),
    "account.taken": Problem(409, InvalidInput),
    "account.unknown": Problem(404, InvalidInput),
    "account.role": Problem(403, PermissionDenied),
    "account.personal": Problem(409, InvalidInput),
    "account.organisations": Problem(409, QuotaExceeded),
    "account.member": Problem(409, InvalidInput),
    "account.member_unknown": Problem(404, InvalidInput),
    "account.members": Problem(409, QuotaExceeded),
    "account.role_unknown": Problem(400, InvalidInput),
    "account.confirmation": Problem(400, InvalidInput),
    "account.last_admin": Problem(409, InvalidInput),
    "account.invitation": Problem(404, InvalidInput),
    "account.invitation_address": Problem(403, PermissionDenied),
    "account.invitations": Problem(429, QuotaExceeded),
    "account.key_request": Problem(400, InvalidInput),
    "account.key_unknown": Problem(404, InvalidInput),
    "account.keys": Problem(409, QuotaExceeded),
    # And to people, on its pages.
    "identity.email": Problem(400, InvalidInput),
    "identity.link": Problem(400, InvalidInput),
    "identity.confirmation": Problem(400, InvalidInput),
    "identity.unverified": Problem(403, PermissionDenied),
    "identity.unknown": Problem(404, InvalidInput),
    "identity.no_password": Problem(409, InvalidInput),
    "identity.ceremony": Problem(400, InvalidInput),
    "identity.passkey": Problem(400, InvalidInput),
    "identity.origin": Problem(400, InvalidInput),
    "identity.user_verification": Problem(400, InvalidInput),
    "identity.passkey_cloned": Problem(401, AuthenticationError),
    "identity.passkey_name": Problem(400, InvalidInput),
    "identity.passkey_taken": Problem(409, InvalidInput),
    "identity.passkey_unknown": Problem(404, InvalidInput),
    "identity.passkeys": Problem(409, QuotaExceeded),
    "identity.last_passkey": Problem(409, InvalidInput),
    "identity.token_unknown": Problem(404, InvalidInput),
    "device.code": Problem(404, InvalidInput),
    "device.name": Problem(400, InvalidInput),
    "authentication.passkey": Problem(401, AuthenticationError),
    "quota.rate": Problem(429, QuotaExceeded),
    "unavailable.mail": Problem(503, Unavailable),
    # What `blindai proxy` answers by itself, before anything is sent to the enclave.
    "proxy.host": Problem(421, InvalidInput),
    "proxy.origin": Problem(403, PermissionDenied),
    "proxy.token": Problem(407, AuthenticationError),
    # The state of the server.
    "busy": Problem(503, Unavailable),
    "stopping": Problem(503, Unavailable),
    "unavailable.store": Problem(503, Unavailable),
    "internal": Problem(500, BlindAIError),
    "gate.already_open": Problem(409, InvalidInput),
}

# Codes that the table does not list take the status and the class of their family.
FAMILIES: Final[dict[str, Problem]] = {
    "input": Problem(400, InvalidInput),
    "http": Problem(400, InvalidInput),
    "model": Problem(400, InvalidModel),
    "quota": Problem(429, QuotaExceeded),
    "authentication": Problem(401, AuthenticationError),
    "permission": Problem(403, PermissionDenied),
    "unavailable": Problem(503, Unavailable),
}

_BY_CLASS: Final[tuple[Problem, ...]] = (
    Problem(400, InvalidInput),
    Problem(400, InvalidModel),
    Problem(401, AuthenticationError),
    Problem(402, BudgetExhausted),
    Problem(403, PermissionDenied),
    Problem(403, LeaseStopped),
    Problem(403, LeaseExpired),
    Problem(404, ModelNotFound),
    Problem(429, QuotaExceeded),
    Problem(503, Unavailable),
)

_BY_STATUS: Final[dict[int, type[BlindAIError]]] = {
    401: AuthenticationError,
    403: PermissionDenied,
    404: ModelNotFound,
    408: Unavailable,
    413: QuotaExceeded,
    429: QuotaExceeded,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
    507: QuotaExceeded,
}


class ProblemBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The JSON object of a problem."""

    error: str
    code: str
    hint: str = ""
    used: int = 0
    granted: int = 0
    request_id: str = ""
    state: str = ""
    reason: str = ""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ProblemBody)


def status_of(error: BlindAIError) -> int:
    """The HTTP status `error` travels with: by its code, else its code's family, else its class, else 500."""
    known = PROBLEMS.get(error.code) or FAMILIES.get(error.code.partition(".")[0])
    if known is not None:
        return known.status
    return next((problem.status for problem in _BY_CLASS if isinstance(error, problem.kind)), 500)


def problem_of(error: BlindAIError) -> ProblemBody:
    """What is said of `error` to whoever gets it."""
    if isinstance(error, BudgetExhausted):
        return ProblemBody(
            error=error.message,
            code=error.code,
            hint=error.hint,
            used=error.used,
            granted=error.granted,
            request_id=error.request_id,
            state=error.state,
            reason=error.reason,
        )
    return ProblemBody(error=error.message, code=error.code, hint=error.hint)


def problem_body(error: BlindAIError) -> bytes:
    """Encode `error` as the JSON body of its response."""
    return _encoder.encode(problem_of(error))


def error_from(status: int, body: bytes) -> BlindAIError:
    """Rebuild the error that a response with `status` (>= 400) and `body` stands for.

    A body that is no problem of ours (a proxy's page, say) becomes an error of the status' class with the
    code `http.status`; its text is not repeated.
    """
    try:
        problem = _decoder.decode(body) if len(body) <= MAX_PROBLEM_BYTES else None
    except (msgspec.DecodeError, msgspec.ValidationError):
        problem = None
    if problem is None:
        kind = _BY_STATUS.get(status, InvalidInput if status < 500 else Unavailable)
        return kind(f"the server answered with HTTP status {status} and no reason", code="http.status")
    return error_of(status, problem)


def error_of(status: int, problem: ProblemBody) -> BlindAIError:
    """Rebuild the error that `problem`, in a response with `status`, stands for."""
    if problem.code == BudgetExhausted.default_code:
        return BudgetExhausted(
            problem.error,
            used=problem.used,
            granted=problem.granted,
            request_id=problem.request_id,
            state=problem.state,
            reason=problem.reason,
            hint=problem.hint,
        )
    return _kind_of(problem.code, status)(problem.error, code=problem.code, hint=problem.hint)


def _kind_of(code: str, status: int) -> type[BlindAIError]:
    known = PROBLEMS.get(code) or FAMILIES.get(code.partition(".")[0])
    if known is not None:
        return known.kind
    return _BY_STATUS.get(status, BlindAIError)
