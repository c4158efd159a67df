"""What each HTTP address does, except inference: health, metadata, the repository, metrics.

Sources: Open Inference Protocol V2, REST; Triton's extensions "model repository", "statistics" and "model
configuration". Where they leave the answer to a failure open, it is a problem (see `wire.problems`).
"""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from blindai.enclave.api.openapi import document
from blindai.enclave.cloud.joining import quotas_of
from blindai.enclave.limits import MAX_CONTROL_BODY_BYTES
from blindai.enclave.metrics import CONTENT_TYPE as METRICS_TYPE
from blindai.enclave.models.model_id import ModelId, parse_model_id, parse_version
from blindai.enclave.models.model_version import Batches, ModelVersion, State
from blindai.enclave.models.repository import Repository
from blindai.enclave.models.upload import cut, receive_model
from blindai.errors import InvalidInput, QuotaExceeded
from blindai.wire.cloud import ModelVisibility, Visibility
from blindai.wire.metadata import (
    BatchStatistics,
    Duration,
    InferenceStatistics,
    MemoryUsage,
    ModelMetadata,
    ModelReady,
    ModelStatistics,
    ModelUploaded,
    RepositoryIndexRequest,
    RepositoryModel,
    ServerLive,
    ServerMetadata,
    ServerReady,
    StatisticsResponse,
)
from blindai.wire.trial import ModelTrial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from blindai.enclave.cloud.access import Need
    from blindai.enclave.cloud.joining import Membership
    from blindai.enclave.cloud.principal import Principal
    from blindai.enclave.config import EnclaveConfig
    from blindai.enclave.engine import TensorSpec
    from blindai.enclave.http.exchange import Handler, Headers
    from blindai.enclave.lease.keeper import Keeper
    from blindai.enclave.metrics import Metrics
    from blindai.enclave.models.description import Description

# A load may bring its own configuration or files in Triton; here a model is what was uploaded.
_UNSUPPORTED_LOAD: Final = ("config", "file:")

CALLER: Final = "blindai.caller"
"""Where in the scope of a request stands who makes it, in a cloud; None for what everybody may ask."""

_Control = TypeVar("_Control", bound=msgspec.Struct)
_encoder = msgspec.json.Encoder()


class _ChangeRequest(msgspec.Struct):
    parameters: dict[str, msgspec.Raw] = {}


class Endpoints:
    """The handlers of all routes. See `app.ROUTES` for which is which."""

    def __init__(
        self,
        config: EnclaveConfig,
        repository: Repository,
        handler: Callable[[ModelId, int | None, Headers], Handler],
        metrics: Metrics,
        *,
        lease: Keeper | None,
        membership: Membership | None,
        needs: Mapping[tuple[str, str], Need],
    ) -> None:
        """`handler` gives what answers an inference request with these headers; it may raise any BlindAIError.

        `needs`: what each method and path needs in a cloud.
        """
        self._config = config
        self._repository = repository
        self._handler = handler
        self._metrics = metrics
        self._lease = lease
        self._membership = membership
        self._document = document(None if membership is None else needs)
        self.stopping = False

    # Server.

    async def server_metadata(self, request: Request) -> Response:
        return _json(ServerMetadata(self._config.name, installed_version("blindai")))

    async def live(self, request: Request) -> Response:
        return _json(ServerLive(live=True))

    async def ready(self, request: Request) -> Response:
        return _json(ServerReady(ready=not self.stopping), status=503 if self.stopping else 200)

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.render(), media_type=METRICS_TYPE)

    async def openapi(self, request: Request) -> Response:
        return _json(self._document)

    async def attestation(self, request: Request) -> Response:
        """The gate's address. Requests get here only once the gate is open, when it has nothing left to do."""
        raise InvalidInput(
            "this connection is attested already",
            code="gate.already_open",
            hint="open a new connection to attest again",
        )

    # Models.

    async def model_metadata(self, request: Request) -> Response:
        version = self._version(request)
        described = _described(version)
        versions = [found.number for found in self._repository.versions(version.id) if found.state is State.READY]
        return _json(
            ModelMetadata(
                version.model_name,
                tuple(versions),
                described.platform,
                tuple(spec.metadata for spec in described.inputs),
                tuple(spec.metadata for spec in described.outputs),
                leased=self.is_on_loan(version.id),
                task=described.task.value,
                labels=described.labels,
                trial=_trial(described),
            )
        )

    async def model_lease(self, request: Request) -> Response:
        model_id, _ = self._address(request)
        if self._lease is None or model_id != self._lease.id:
            raise InvalidInput("this model is not on loan", code="lease.none")
        return _json(self._lease.view(request.headers.raw))

    async def model_ready(self, request: Request) -> Response:
        version = self._version(request)
        if version.state is not State.READY:
            raise version.not_loaded()
        return _json(ModelReady(version.model_name, ready=True))

    async def model_config(self, request: Request) -> Response:
        version = self._version(request)
        described = _described(version)
        return _json(
            {
                "name": version.model_name,
                "platform": described.platform,
                "backend": described.trial.engine,
                # As Triton says that the shapes below are whole. What runs together is the server's business.
                "max_batch_size": 0,
                "parameters": {"max_batch": {"string_value": str(described.trial.max_batch)}},
                "version_policy": {"latest": {"num_versions": 1}},
                "input": [_config_spec(spec) for spec in described.inputs],
                "output": [_config_spec(spec) for spec in described.outputs],
            }
        )

    async def model_statistics(self, request: Request) -> Response:
        model_id, number = self._address(request)
        return _json(StatisticsResponse(tuple(map(_statistics, self._repository.versions(model_id, number)))))

    async def all_statistics(self, request: Request) -> Response:
        caller = _caller(request)
        return _json(
            StatisticsResponse(
                tuple(
                    _statistics(found)
                    for found in self._repository
                    if caller is None or found.id.namespace == caller.namespace
                )
            )
        )

    async def infer(self, request: Request) -> Response:
        """Inference through plain ASGI. Connections of `http.EnclaveHttpProtocol` do not come this way."""
        handler = self._handler(*self._address(request), request.headers.raw)
        answer = handler(request.headers.raw, await read_body(request, self._config.limits.max_body_bytes))
        status, headers, buffers = answer if isinstance(answer, tuple) else await answer
        response = Response(b"".join(buffers), status_code=status)
        for line in headers.splitlines():
            name, _, value = line.partition(b": ")
            response.raw_headers.append((name, value))
        return response

    # Repository.

    async def index(self, request: Request) -> Response:
        wanted = await _control(request, RepositoryIndexRequest)
        return _json(
            [
                RepositoryModel(
                    found.model_name, found.number, found.state, found.reason, self._shown_visibility(found)
                )
                for found in self._repository
                if (found.state is State.READY or not wanted.ready) and self._is_listed(request, found)
            ]
        )

    async def load(self, request: Request) -> Response:
        model_id, number = self._own_address(request)
        wanted = await _control(request, _ChangeRequest)
        if any(name.startswith(_UNSUPPORTED_LOAD) for name in wanted.parameters):
            raise InvalidInput(
                "a load takes no configuration and no files",
                code="input.parameters",
                hint="upload the model with PUT /v2/repository/models/{namespace}/{name}",
            )
        await self._repository.load(model_id, number)
        return _json({})

    async def unload(self, request: Request) -> Response:
        model_id, number = self._own_address(request)
        await _control(request, _ChangeRequest)
        await self._repository.unload(model_id, number)
        return _json({})

    async def delete(self, request: Request) -> Response:
        model_id, number = self._own_address(request)
        await self._repository.delete(model_id, number)
        if self._membership is not None and (caller := _caller(request)) is not None:
            self._membership.deleted(caller)
        return _json({})

    async def visibility(self, request: Request) -> Response:
        model_id = self._shared_address(request)
        self._repository.resolve(model_id)
        return _json(self._repository.visibility(model_id))

    async def set_visibility(self, request: Request) -> Response:
        model_id = self._shared_address(request)
        wanted = await _control(request, ModelVisibility)
        if (wanted.visibility is Visibility.SHARED) != bool(wanted.shared_with):
            raise InvalidInput(
                "`shared_with` names the accounts of a shared model, and none of another", code="input.message"
            )
        self._repository.show(
            model_id, msgspec.structs.replace(wanted, shared_with=tuple(sorted({*wanted.shared_with})))
        )
        return _json(self._repository.visibility(model_id))

    async def upload(self, request: Request) -> Response:
        model_id, number = self._own_address(request)
        length = request.headers.get("content-length")
        digests = [value for name, value in request.headers.raw if name == b"content-digest"]
        version = await receive_model(
            self._repository,
            model_id,
            _stream(request),
            version=number,
            length=None if length is None else int(length),
            content_type=request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip(),
            content_digest=b", ".join(digests) if digests else None,
            max_bytes=self._config.limits.max_model_bytes,
            quotas=quotas_of(_caller(request)),
        )
        self._metrics.uploaded()
        if self._membership is not None and (caller := _caller(request)) is not None:
            self._membership.uploaded(caller)
        described = version.description
        return _json(
            ModelUploaded(
                version.model_name,
                version.number,
                version.sha256,
                version.uploaded,
                described.platform,
                tuple(spec.metadata for spec in described.inputs),
                tuple(spec.metadata for spec in described.outputs),
            ),
            status=201,
        )

    def named(self, request: Request) -> ModelId | None:
        """The model that a request's path names; None where there is none.

        Raises:
            InvalidInput: `model.id`.
        """
        parts = request.path_params
        return parse_model_id(parts["namespace"], parts["name"]) if "namespace" in parts else None

    def is_on_loan(self, model_id: ModelId) -> bool:
        """Whether this is the name of the model on loan."""
        return self._lease is not None and model_id == self._lease.id

    def _address(self, request: Request) -> tuple[ModelId, int | None]:
        model_id = parse_model_id(request.path_params["namespace"], request.path_params["name"])
        number = request.path_params.get("version", request.query_params.get("version"))
        return model_id, None if number is None else parse_version(number)

    def _own_address(self, request: Request) -> tuple[ModelId, int | None]:
        """The address of a model that the enclave's users may change."""
        model_id, number = self._address(request)
        if self.is_on_loan(model_id):
            raise InvalidInput(
                "this name is that of the model on loan, which its custodian alone loads and removes",
                code="lease.managed",
                hint="choose another name for a model of your own",
            )
        return model_id, number

    def _shared_address(self, request: Request) -> ModelId:
        """The address of a model that may be shown to others."""
        if self._membership is None:
            raise InvalidInput(
                "this enclave is in no cloud: everybody who reaches it may query every model", code="cloud.none"
            )
        return self._own_address(request)[0]

    def _shown_visibility(self, found: ModelVersion) -> Visibility | msgspec.UnsetType:
        """Who else may query a model: a thing of clouds, and no decision of the account's where it is on loan."""
        if self._membership is None or found.leased:
            return msgspec.UNSET
        return self._repository.visibility(found.id).visibility

    def _is_listed(self, request: Request, found: ModelVersion) -> bool:
        caller = _caller(request)
        if self._membership is None or caller is None:
            return True
        return found.leased or self._membership.access.is_listed(caller, found.id)

    def _version(self, request: Request) -> ModelVersion:
        model_id, number = self._address(request)
        if self._lease is not None and model_id == self._lease.id and self._lease.gate.version is None:
            raise self._lease.gate.refusal()
        return self._repository.resolve(model_id, number)


def _caller(request: Request) -> Principal | None:
    caller: Principal | None = request.scope.get(CALLER)
    return caller


def _json(value: Any, *, status: int = 200) -> Response:
    return Response(_encoder.encode(value), status_code=status, media_type="application/json")


def _described(version: ModelVersion) -> Description:
    """What a version is that requests can be sent to.

    Raises:
        ModelNotFound: `model.not_loaded`.
    """
    if version.state is not State.READY:
        raise version.not_loaded()
    return version.description


def _trial(described: Description) -> ModelTrial | None:
    return msgspec.convert(described.trial, ModelTrial, from_attributes=True) if described.trial.candidates else None


def _config_spec(spec: TensorSpec) -> dict[str, Any]:
    data_type = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{data_type}", "dims": list(spec.shape)}


def _statistics(version: ModelVersion) -> ModelStatistics:
    counts, loaded, trial = version.statistics, version.loaded, version.description.trial
    done = counts.successes
    batches = tuple(_batch_statistics(size, counts.batches[size]) for size in sorted(counts.batches))
    return ModelStatistics(
        version.model_name,
        version.number,
        counts.last_ms,
        done,
        sum(batch.compute_infer.count for batch in batches),
        InferenceStatistics(
            success=Duration(done, counts.successes_ns),
            fail=Duration(counts.failures, counts.failures_ns),
            queue=Duration(done, counts.queue_ns),
            compute_input=Duration(done, counts.decode_ns),
            compute_infer=Duration(done, counts.engine_ns),
            compute_output=Duration(done, counts.encode_ns),
        ),
        batches,
        () if loaded is None else (MemoryUsage(byte_size=loaded.memory),),
        version.state,
        loaded is not None,
        trial.engine,
        trial.threads,
        trial.max_batch,
    )


def _batch_statistics(size: int, counts: Batches) -> BatchStatistics:
    # Of a run whose client went away some requests are not counted: it counts as a run all the same.
    runs = -(-counts.requests // size)
    return BatchStatistics(
        size,
        compute_input=Duration(runs, counts.decode_ns),
        compute_infer=Duration(runs, counts.engine_ns // size),
        compute_output=Duration(runs, counts.encode_ns),
    )


async def _stream(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            if chunk:
                yield chunk
    except ClientDisconnect:
        raise cut() from None


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        QuotaExceeded: `quota.body`, it has more than `limit` bytes.
        Unavailable: `unavailable`, the client has gone.
    """
    declared = request.headers.get("content-length")
    if declared is not None and int(declared) > limit:
        raise _too_long(limit)
    body = bytearray()
    async for chunk in _stream(request):
        body += chunk
        if len(body) > limit:
            raise _too_long(limit)
    return bytes(body)


async def _control(request: Request, kind: type[_Control]) -> _Control:
    """The small JSON object of a control request; an empty body is an empty object."""
    body = await read_body(request, MAX_CONTROL_BODY_BYTES)
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the body is not what this address takes: {error}", code="input.message") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidInput("the body is not JSON", code="input.json") from None


def _too_long(limit: int) -> QuotaExceeded:
    return QuotaExceeded(f"the body of this request may have {limit} bytes", code="quota.body")
