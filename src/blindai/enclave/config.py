"""The measured configuration: whatever changes how the enclave treats data or models.

It is read once at start from an optional TOML file. Its digest stands in the attestation statement, so a
relying party that pins the digest knows every setting below. Nothing here comes from an environment
variable. Address, port and log format are not part of it: they concern the host alone.
"""

from __future__ import annotations

import enum
import re
import tomllib
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from blindai.channel.statement import config_digest
from blindai.enclave.limits import GIB, KIB, MIB
from blindai.enclave.models.model_id import RULE, ModelId, parse_model_id
from blindai.errors import ConfigurationError, InvalidInput
from blindai.wire.custody import Hex32, LeaseId

if TYPE_CHECKING:
    from pathlib import Path

# A configuration is a page of text; anything larger is another file given by mistake.
MAX_CONFIG_BYTES: Final = 256 * KIB

# Integers must survive the canonical encoding, and no setting needs more than a terabyte or a day.
Size = Annotated[int, msgspec.Meta(ge=1, le=1024 * GIB)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=86_400_000)]

# A name or an IPv4 address, or an IPv6 address in brackets (RFC 3986, section 3.2.2), and a port.
_ADDRESS: Final = r"\A(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}\Z"
_ENDPOINT: Final = r"\Ahttps://(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?\Z"


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one request, and all of them together, may use.

    Attributes:
        max_body_bytes: body of one inference request.
        max_bodies_bytes: bodies of all inference requests in flight together.
        max_model_bytes: one model with its external data.
        max_store_bytes: all models together, as they lie encrypted on the host's disk.
        max_models: model versions stored, uploads in progress included.
        max_namespace_bytes: the models of one namespace, of `max_store_bytes`.
        max_namespace_models: the model versions of one namespace, of `max_models`.
        model_memory_bytes: what is in memory of all models together. Where a model would not fit, those used longest
            ago leave memory; they come back with the next request to them.
        model_process_bytes: memory of the process of one model, its runs included.
        max_queued_runs: inference requests waiting for their turn; the next one is told to come back.
        max_namespace_queued_runs: those of one namespace.
        max_header_bytes: request line and headers of one request.
        max_headers: number of headers of one request.
        max_url_bytes: target of one request.
        max_connections: connections open at once.
    """

    max_body_bytes: Size = 64 * MIB
    max_bodies_bytes: Size = 512 * MIB
    max_model_bytes: Size = 2 * GIB
    max_store_bytes: Size = 64 * GIB
    max_models: Count = 4096
    max_namespace_bytes: Size = 16 * GIB
    max_namespace_models: Count = 1024
    model_memory_bytes: Size = 6 * GIB
    model_process_bytes: Size = 4 * GIB
    max_queued_runs: Count = 256
    max_namespace_queued_runs: Count = 128
    max_header_bytes: Size = 16 * KIB
    max_headers: Count = 64
    max_url_bytes: Size = 1 * KIB
    max_connections: Count = 1024


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a connection may make the enclave wait, in milliseconds.

    Attributes:
        head_ms: from the first byte of a request to the end of its headers.
        body_ms: without any byte of an unfinished body.
        write_ms: without the client reading a response that waits for it.
        idle_ms: between two requests.
        run_ms: one run of a model, before it is stopped.
        load_ms: loading a model and trying it out, before that is given up.
        shutdown_ms: for requests in progress, once the server is told to stop.
    """

    head_ms: Milliseconds = 10_000
    body_ms: Milliseconds = 30_000
    write_ms: Milliseconds = 30_000
    idle_ms: Milliseconds = 75_000
    run_ms: Milliseconds = 60_000
    load_ms: Milliseconds = 120_000
    shutdown_ms: Milliseconds = 10_000


class Isolation(enum.StrEnum):
    """Where a model that somebody uploaded runs."""

    PROCESS = "process"
    THREAD = "thread"


class EngineName(enum.StrEnum):
    """An inference engine; see `engines`."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class Runtime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How models run.

    Attributes:
        isolation: `process` gives each uploaded model a confined process of its own; `thread` runs all of them in the
            server's own, for platforms where an enclave is one process and for models that are all trusted.
        engines: what a model may run on, the reference first. Of several, the fastest whose answers agree is kept.
        reduced_precision: let an engine calculate with fewer bits than the model says where that is faster.
        workers: inference requests of one namespace that run at once, besides those that run without a hand-over.
        threads: most threads of one run.
        max_batch: requests that are run as one where that is faster and changes no bit of any answer; 1 never does.
        inline_us: a model whose run takes less is run without a hand-over to a worker; 0 never does.
    """

    isolation: Isolation = Isolation.PROCESS
    engines: Annotated[tuple[EngineName, ...], msgspec.Meta(min_length=1, max_length=2)] = (EngineName.ONNXRUNTIME,)
    reduced_precision: bool = False
    workers: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 2
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=64)] = 16
    inline_us: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 200


class Custody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The custodian whose model this enclave has on loan. It is measured, so that nobody can put another in its place.

    Attributes:
        address: `host:port` of the custodian's port for enclaves.
        public_key: its Ed25519 key in hex. It must prove it on every connection, and it signs every grant.
        lease: which of its leases.
        model_id: the name under which the model is served.
    """

    address: Annotated[str, msgspec.Meta(max_length=300, pattern=_ADDRESS)]
    public_key: Hex32
    lease: LeaseId
    model_id: str = "leased/model"

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError("the port of `address` must be between 1 and 65535")
        try:
            _ = self.model
        except InvalidInput as error:
            raise ValueError(f"`model_id` must be {RULE}") from error

    @property
    def host(self) -> str:
        """The host of `address`, without brackets."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port of `address`."""
        return int(self.address.rpartition(":")[2])

    @property
    def model(self) -> ModelId:
        """`model_id`, parsed."""
        return parse_model_id(*(self.model_id.split("/", 1) if "/" in self.model_id else ("", self.model_id)))


class Cloud(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The control plane that says who may do what in this enclave; measured, so that nobody can put another there.

    Without it everybody who reaches the enclave may do everything.

    Attributes:
        address: `host:port` of the control plane's port for enclaves.
        public_key: its Ed25519 key in hex. It must prove it on every connection, and it signs every assertion.
        endpoint: `https://host:port` where clients reach this enclave, for the cloud's directory.
        anonymous_per_minute: requests without a key, all together; 0 takes none. They reach public models alone.
    """

    address: Annotated[str, msgspec.Meta(max_length=300, pattern=_ADDRESS)]
    public_key: Hex32
    endpoint: Annotated[str, msgspec.Meta(max_length=308, pattern=_ENDPOINT)]
    anonymous_per_minute: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 600

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError("the port of `address` must be between 1 and 65535")

    @property
    def host(self) -> str:
        """The host of `address`, without brackets."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port of `address`."""
        return int(self.address.rpartition(":")[2])


class EnclaveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration of one enclave; every field has a default that is safe to keep.

    Attributes:
        name: what the server calls itself in `GET /v2`; printable ASCII.
        limits, timeouts, runtime: see their classes.
        custody: where the enclave has a model on loan. Without it nothing of custody stands in the configuration.
        cloud: where a control plane says who may do what. Without it nothing of it stands in the configuration.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"\A[ -~]+\Z")] = "blindai"
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    runtime: Runtime = Runtime()
    custody: Custody | msgspec.UnsetType = msgspec.UNSET
    cloud: Cloud | msgspec.UnsetType = msgspec.UNSET

    @property
    def digest(self) -> str:
        """The statement's `config_digest`, over all settings, defaults included."""
        return config_digest(msgspec.to_builtins(self))

    @classmethod
    def parse(cls, text: str, source: str) -> EnclaveConfig:
        """Read a configuration from TOML text; `source` names it in errors.

        Raises:
            ConfigurationError: `configuration.syntax`, `configuration.unknown_key` or `configuration.value`.
        """
        try:
            return msgspec.convert(tomllib.loads(text), cls)
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"{source} is not TOML: {error}", code="configuration.syntax") from error
        except msgspec.ValidationError as error:
            raise _explain(str(error), source) from error

    @classmethod
    def load(cls, path: Path) -> EnclaveConfig:
        """Read a configuration from a TOML file.

        Raises:
            ConfigurationError: as `parse`, or `configuration.unreadable`.
        """
        try:
            data = path.read_bytes()
            text = data.decode() if len(data) <= MAX_CONFIG_BYTES else None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} cannot be read: {error}", code="configuration.unreadable") from error
        if text is None:
            raise ConfigurationError(
                f"{path} is larger than {MAX_CONFIG_BYTES} bytes, too large for a configuration",
                code="configuration.unreadable",
            )
        return cls.parse(text, str(path))


_UNKNOWN = re.compile(r"unknown field `(?P<key>[^`]*)`(?: - at `\$\.?(?P<table>[^`]*)`)?")
_WHERE = re.compile(r"(?P<what>.*) - at `\$\.(?P<where>[^`]*)`")


def _explain(message: str, source: str) -> ConfigurationError:
    if unknown := _UNKNOWN.search(message):
        key = ".".join(part for part in (unknown["table"], unknown["key"]) if part)
        return ConfigurationError(
            f"{source} has the key {key!r}, which no setting is called",
            code="configuration.unknown_key",
            hint="remove it, or see docs/reference/configuration.md for the settings there are",
        )
    where = _WHERE.fullmatch(message)
    detail = f"{where['where']}: {where['what']}" if where else message
    return ConfigurationError(f"{source} has a wrong value; {detail}", code="configuration.value")
