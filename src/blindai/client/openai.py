"""The `openai` package on attested connections: its own client, with another way to the server and our errors.

Nothing is sent before the enclave is accepted, no proxy and no credential of the environment is heeded, and no other
address than the enclave's is ever contacted. Retries are left to `openai`; a refused attestation is never retried.

Errors are of both families: a model that is not there raises what is a `blindai.ModelNotFound` and an
`openai.NotFoundError`, an enclave that cannot be reached a `blindai.Unavailable` and an `openai.APIConnectionError`. An
`AttestationError` is nothing else.
"""

from __future__ import annotations

import os
from typing import Any, TypeVar, cast

from blindai.attestation.policy import Policy
from blindai.errors import BlindAIError, ConfigurationError
from blindai.wire.openai import error_from

try:
    import httpx2
    import openai

    from blindai.client.openai_transport import NO_API_KEY, AsyncAttestedTransport, AttestedTransport
except ImportError as error:
    raise ConfigurationError(
        f"the client of OpenAI's interface is not installed: {error}",
        code="configuration.openai_missing",
        hint="pip install 'blindai[openai]'",
    ) from error

E = TypeVar("E", bound=Exception)


class AttestedOpenAI(openai.OpenAI):
    """`openai.OpenAI`, with errors that are ours too. `openai_client` makes one."""

    def request(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().request(*arguments, **options)
        except openai.APIConnectionError as error:
            raise _of_both_families(error) from error.__cause__

    def _make_status_error(self, err_msg: str, *, body: object, response: httpx2.Response) -> openai.APIStatusError:
        return _status_error(super()._make_status_error(err_msg, body=body, response=response))


class AsyncAttestedOpenAI(openai.AsyncOpenAI):
    """`openai.AsyncOpenAI`, with errors that are ours too. `async_openai_client` makes one."""

    async def request(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().request(*arguments, **options)
        except openai.APIConnectionError as error:
            raise _of_both_families(error) from error.__cause__

    def _make_status_error(self, err_msg: str, *, body: object, response: httpx2.Response) -> openai.APIStatusError:
        return _status_error(super()._make_status_error(err_msg, body=body, response=response))


def openai_client(
    addr: str | None = None,
    *,
    policy: Policy | str | os.PathLike[str] | None = None,
    simulation: bool = False,
    api_key: str | None = None,
    **options: Any,
) -> AttestedOpenAI:
    """A client of the `openai` package for an enclave. It connects and attests at once.

    Args:
        addr: `https://host:port`; without it the environment variable BLINDAI_ADDR, then the stored profile.
        policy: a manifest's path, or a `Policy`; without it ./manifest.toml, then the stored profile's.
        simulation: without a policy, accept the simulated platform of this very installation.
        api_key: sent as a bearer token, after attestation only; without it the one that was stored for the cloud that
            the profile names. OPENAI_API_KEY is not read.
        options: further arguments of `openai.OpenAI`, such as `timeout` and `max_retries`.

    Raises:
        ConfigurationError: no address or no policy, or one that cannot be read; `configuration.openai_options`, an
            option that would lead around the attested connection.
        AttestationError: the peer is refused.
        Unavailable: nothing answers at the address.
    """
    _require_harmless(options)
    transport = AttestedTransport(addr, api_key=api_key, policy=policy, simulation=simulation)
    http = httpx2.Client(transport=transport, trust_env=False, timeout=openai.DEFAULT_TIMEOUT)
    return AttestedOpenAI(
        base_url=f"{transport.address}/v1", api_key=_key(transport.api_key), http_client=http, **options
    )


def async_openai_client(
    addr: str | None = None,
    *,
    policy: Policy | str | os.PathLike[str] | None = None,
    simulation: bool = False,
    api_key: str | None = None,
    **options: Any,
) -> AsyncAttestedOpenAI:
    """The same for asyncio; it connects with its first request. The arguments are those of `openai_client`.

    Raises:
        ConfigurationError: see there.
    """
    _require_harmless(options)
    transport = AsyncAttestedTransport(addr, api_key=api_key, policy=policy, simulation=simulation)
    http = httpx2.AsyncClient(transport=transport, trust_env=False, timeout=openai.DEFAULT_TIMEOUT)
    return AsyncAttestedOpenAI(
        base_url=f"{transport.address}/v1", api_key=_key(transport.api_key), http_client=http, **options
    )


_LEADS_ELSEWHERE = frozenset(
    {"base_url", "http_client", "provider", "data_residency", "websocket_base_url", "workload_identity"}
)


_families: dict[tuple[type[BlindAIError], type[Exception]], type[Exception]] = {}


def _require_harmless(options: dict[str, Any]) -> None:
    if wrong := sorted(_LEADS_ELSEWHERE & options.keys()):
        raise ConfigurationError(
            f"{', '.join(wrong)} would lead to another server than the attested one",
            code="configuration.openai_options",
            hint="name the enclave with addr",
        )


def _key(api_key: str | None) -> str:
    """None would make `openai` look for one in the environment, and none at all is not taken."""
    return NO_API_KEY if api_key is None else api_key


def _status_error(theirs: openai.APIStatusError) -> openai.APIStatusError:
    return _merged(error_from(theirs.status_code, theirs.response.content), theirs)


def _of_both_families(theirs: openai.APIConnectionError) -> openai.APIConnectionError:
    cause = theirs.__cause__
    return _merged(cause, theirs) if isinstance(cause, BlindAIError) else theirs


def _merged(ours: BlindAIError, theirs: E) -> E:
    """An error that is caught as either; it says what ours says, and carries what both carry."""
    kind = next(kind for kind in type(ours).__mro__ if kind.__module__ == BlindAIError.__module__)
    both = _family(kind, cast("type[Exception]", type(theirs)))
    merged = both.__new__(both)
    merged.args = ours.args
    merged.__dict__.update(theirs.__dict__ | ours.__dict__)
    return cast("E", merged)


def _family(ours: type[BlindAIError], theirs: type[Exception]) -> type[Exception]:
    known = _families.get((ours, theirs))
    if known is None:
        known = _families[ours, theirs] = type(ours.__name__, (ours, theirs), {"__module__": __name__})
    return known
