"""The enclave's HTTP application: addresses to handlers, and errors to answers."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import Response
from starlette.routing import Match, Route, Router

from blindai.enclave.api.endpoints import CALLER, Endpoints
from blindai.enclave.api.openai import EMBEDDINGS, OpenAI, plain_path
from blindai.enclave.api.receipts import Receipts
from blindai.enclave.cloud.access import rules_for
from blindai.enclave.cloud.joining import Membership
from blindai.enclave.config import Isolation
from blindai.enclave.http.reply import problem_content, problem_headers
from blindai.enclave.lease.borrowing import borrow
from blindai.enclave.limits import MAX_CACHED_ROUTES, Budget
from blindai.enclave.metrics import Metrics
from blindai.enclave.model_file.opening import Opened, OpeningSettings, open_model
from blindai.enclave.models.model_id import RULE, ModelId, parse_model_id, parse_version
from blindai.enclave.models.model_version import not_found
from blindai.enclave.models.repository import Repository
from blindai.enclave.running.inference import Inference
from blindai.enclave.running.thread_runner import RunningThreads, ThreadLoader
from blindai.errors import BlindAIError, InvalidInput, Unavailable
from blindai.wire.openai import PREFIX as OPENAI_PREFIX
from blindai.wire.problems import status_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send
    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable
    from uvicorn._types import Scope as UvicornScope

    from blindai.channel.calling import CallingEnd
    from blindai.enclave.api.receipts import Signer
    from blindai.enclave.config import EnclaveConfig
    from blindai.enclave.engine import Engine
    from blindai.enclave.http.exchange import Handler, Headers
    from blindai.enclave.models.description import Trial
    from blindai.enclave.running.runner import Loader, Plain
    from blindai.enclave.sandbox.sandbox import Sandbox
    from blindai.wire.custody import Grant

_MODEL: Final = "/v2/models/{namespace}/{name}"
_STORED: Final = "/v2/repository/models/{namespace}/{name}"


class Address(NamedTuple):
    """One route: a method, a path, and the name of the handler in `Endpoints`; of paths of OpenAI's, in `OpenAI`."""

    method: str
    path: str
    handler: str


ROUTES: Final = (
    Address("GET", "/v2", "server_metadata"),
    Address("GET", "/v2/health/live", "live"),
    Address("GET", "/v2/health/ready", "ready"),
    Address("GET", "/v2/models/stats", "all_statistics"),
    Address("GET", _MODEL + "/lease", "model_lease"),
    *(
        Address(method, _MODEL + version + action, handler)
        for version in ("", "/versions/{version}")
        for method, action, handler in (
            ("GET", "", "model_metadata"),
            ("GET", "/ready", "model_ready"),
            ("GET", "/config", "model_config"),
            ("GET", "/stats", "model_statistics"),
            ("POST", "/infer", "infer"),
        )
    ),
    Address("POST", "/v2/repository/index", "index"),
    Address("PUT", _STORED, "upload"),
    Address("DELETE", _STORED, "delete"),
    Address("POST", _STORED + "/load", "load"),
    Address("POST", _STORED + "/unload", "unload"),
    Address("GET", _STORED + "/visibility", "visibility"),
    Address("PUT", _STORED + "/visibility", "set_visibility"),
    Address("GET", "/v1/models", "list_models"),
    Address("GET", "/v1/models/{namespace}/{name}", "describe_model"),
    Address("POST", "/v1/embeddings", "embed"),
    Address("GET", "/metrics", "metrics"),
    Address("GET", "/openapi.json", "openapi"),
    Address("POST", "/.well-known/blindai/attestation", "attestation"),
)

_RULES: Final = rules_for(route.handler for route in ROUTES)

_INFER_PREFIX: Final = b"/v2/models/"
_INFER_SUFFIX: Final = b"/infer"
_MODEL_PREFIXES: Final = (b"/v2/models/", b"/v2/repository/models/")
_MEDIA_TYPES: Final = {"/metrics": ("text/plain", "text/*")}
_JSON_MEDIA_TYPES: Final = ("application/json", "application/*")


class Application:
    """Everything behind the gate: an ASGI application that takes inference requests directly (see `http`).

    Args:
        config: the measured configuration.
        engine: what runs models.
        end: attests this enclave to the custodian and to the control plane of its cloud; needed where the configuration
            names one of them.
        sealed_model: the file of the model on loan; without it the custodian is asked for the model itself.
        signer: attests this enclave to clients, and signs receipts for them; without it there are none.
        spool: folder for uploaded models, encrypted; see `store.Store`.
        open_body: opens uploaded models, which then run in the server's own process whatever the configuration says.

    Attributes:
        repository: the models.
        lease: the lease of the model on loan, where there is one.
        membership: its part in a cloud, where it has one.
        bodies: the budget for bodies of inference requests.
        metrics: the counts.
    """

    def __init__(
        self,
        config: EnclaveConfig,
        engine: Engine,
        *,
        end: CallingEnd | None = None,
        sealed_model: Path | None = None,
        signer: Signer | None = None,
        spool: Path | None = None,
        open_body: Callable[[Plain, Trial | None], Opened] | None = None,
    ) -> None:
        self.config = config
        self._threads = RunningThreads(config.runtime.workers)
        self._loader: Loader
        self._sandbox: Sandbox | None = None
        if config.runtime.isolation is Isolation.PROCESS and open_body is None:
            # What it needs of the system is not there everywhere, where isolation = "thread" is.
            from blindai.enclave.sandbox.sandbox import Sandbox

            self._loader = self._sandbox = Sandbox(config)
        else:
            self._loader = ThreadLoader(open_body or partial(_open, config), self._threads)
        self.repository = Repository(self._loader, engine, config, self._threads, spool=spool)
        self.bodies = Budget(config.limits.max_bodies_bytes, _bodies_full)
        self._inference = Inference(config, Receipts(signer, grant=self._grant), self.repository, self._threads)
        self.metrics = Metrics(self.repository, self.bodies, self._inference.queued, self._inference.counts)
        self._inference.count_in(self.metrics)
        self.lease = None
        if config.custody:
            if end is None:
                raise ValueError("an enclave with a custodian needs an end that calls it")
            self.lease = borrow(
                config.custody,
                config.limits,
                end,
                self.repository,
                self._inference,
                sealed_model=sealed_model,
                refused=self.refused,
            )
            self.metrics.count_lease(self.lease)
        self.membership = None
        if config.cloud:
            if end is None:
                raise ValueError("an enclave of a cloud needs an end that calls its control plane")
            self.membership = Membership(config.cloud, end, self.repository, self._inference, refused=self.refused)
        self._queries = None if self.membership is None else self.membership.queries
        self._endpoints = Endpoints(
            config,
            self.repository,
            self._handler,
            self.metrics,
            lease=self.lease,
            membership=self.membership,
            needs={(method, path): _RULES[handler].need for method, path, handler in ROUTES},
        )
        self._openai = OpenAI(
            self.repository,
            self._handler,
            self.refused,
            membership=self.membership,
            max_body_bytes=config.limits.max_body_bytes,
        )
        self._routes = [Route(path, self._guarded(path, handler), methods=[method]) for method, path, handler in ROUTES]
        self._asgi = ExceptionMiddleware(
            Router(self._routes, redirect_slashes=False),
            handlers={BlindAIError: self._on_error, HTTPException: self._on_routing_error},
        )
        self._handlers: dict[bytes, Handler] = {}
        self._generation = self.repository.generation

    def direct(self, method: bytes, target: bytes, headers: Headers) -> Handler | None:
        """As `exchange.Application.direct`: takes inference requests."""
        if method != b"POST":
            return None
        if self._queries is not None:
            known = self._queries.known(target, headers)
            if known is not None:
                return known
        elif self._generation != self.repository.generation or len(self._handlers) > MAX_CACHED_ROUTES:
            self._handlers.clear()
            self._generation = self.repository.generation
        handler = self._handlers.get(target)  # of a cloud there are none
        if handler is None:
            path = target.partition(b"?")[0]
            if path == EMBEDDINGS:
                return self._openai.embeddings
            if not (path.startswith(_INFER_PREFIX) and path.endswith(_INFER_SUFFIX)):
                return None
            check_path(path)
            parts = path.decode("ascii").split("/")[3:-1]
            if len(parts) == 4 and parts[2] == "versions":
                number = parse_version(parts[3])
            elif len(parts) == 2:
                number = None
            else:
                return None
            handler = self._handler(parse_model_id(parts[0], parts[1]), number, headers, path)
            if self._queries is None:
                self._handlers[path] = handler
        return handler

    def _grant(self) -> Grant | None:
        return None if self.lease is None else self.lease.terms.grant

    def _handler(self, model_id: ModelId, number: int | None, headers: Headers, path: bytes | None = None) -> Handler:
        """What answers an inference request for a version of a model; the newest one, where no number is given.

        Args:
            model_id, number: of the model.
            headers: the request's.
            path: under which the handler will be remembered.

        Raises:
            ModelNotFound: `model.not_found`.
            BlindAIError: in a cloud, as `cloud.queries.Queries.handler`.
        """
        if self.lease is not None and model_id == self.lease.id:
            if number not in {None, self.lease.version}:
                raise not_found(f"version {number} of the model {model_id}")
            return self.lease.gate.infer
        if self._queries is not None:
            return self._queries.handler(model_id, number, headers, path)
        return partial(self._inference.infer, self.repository.resolve(model_id, number))

    def _guarded(self, path: str, handler: str) -> Callable[[Request], Awaitable[Response]]:
        """What answers requests to a path through ASGI, once its caller may make them."""
        owner = self._openai if path.startswith(OPENAI_PREFIX) else self._endpoints
        answer: Callable[[Request], Awaitable[Response]] = getattr(owner, handler)
        rule, membership = _RULES[handler], self.membership
        if membership is None or rule.query:  # queries are decided where their model is known
            return answer

        async def guarded(request: Request) -> Response:
            model_id = self._endpoints.named(request)
            if model_id is None or not self._endpoints.is_on_loan(model_id):
                request.scope[CALLER] = await membership.admit(rule, request.headers.raw, model_id)
            return await answer(request)

        return guarded

    def refused(self, error: BlindAIError) -> None:
        """As `exchange.Application.refused`."""
        self.metrics.refused(error.code)

    async def __call__(self, scope: UvicornScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """As in ASGI. Only HTTP is served."""
        if scope["type"] != "http":
            raise RuntimeError(f"the enclave serves HTTP, not {scope['type']}")
        # Starlette raises for a missing address, instead of answering in its own words, when it finds an app.
        # uvicorn and Starlette spell the same ASGI types apart.
        starlette = ({**cast("Scope", scope), "app": self}, cast("Receive", receive), cast("Send", send))
        try:
            check_path(plain_path(scope["raw_path"]))
            _check_accept(scope["path"], scope["headers"])
        except InvalidInput as error:
            await self._refusal(scope["raw_path"], error)(*starlette)
            return
        await self._asgi(*starlette)

    async def prepare(self) -> None:
        """Start what models run in. Before `start`, on the same event loop. Closes everything where it fails.

        Raises:
            ConfigurationError: `configuration.isolation`, this system cannot run models as the configuration says.
        """
        if self._sandbox is not None:
            try:
                await self._sandbox.start()
            except BaseException:
                await self.close()
                raise

    def start(self) -> None:
        """Begin what goes on beside requests. On the event loop."""
        if self.lease is not None:
            self.lease.start()
        if self.membership is not None:
            self.membership.start()

    def stop(self) -> None:
        """Say so to whoever asks whether the server is ready. Requests in progress go on."""
        self._endpoints.stopping = True

    async def close(self) -> None:
        """Free the models and end the workers, once nothing is served any more."""
        if self.lease is not None:
            self.lease.gate.shut()
        await self._inference.close()
        if self.membership is not None:
            await self.membership.close()
        if self.lease is not None:
            await self.lease.close(self.config.timeouts.shutdown_ms / 1000)
        await self.repository.close()
        await self._loader.close()
        self._threads.close()

    # Coroutines, although they await nothing: Starlette would run plain functions in a thread.

    async def _on_error(self, request: Request, error: Exception) -> Response:
        if not isinstance(error, BlindAIError):
            raise error
        return self._refusal(request.scope["raw_path"], error)

    async def _on_routing_error(self, request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        if error.status_code != HTTPStatus.METHOD_NOT_ALLOWED:
            return self._refusal(
                request.scope["raw_path"], InvalidInput("there is nothing at this address", code="http.not_found")
            )
        response = self._refusal(
            request.scope["raw_path"], InvalidInput("this address takes another method", code="http.method")
        )
        response.headers["allow"] = ", ".join(
            sorted(
                method
                for route in self._routes
                if route.matches(request.scope)[0] is not Match.NONE
                for method in route.methods or ()
            )
        )
        return response

    def _refusal(self, path: bytes, error: BlindAIError) -> Response:
        self.metrics.refused(error.code)
        response = Response(problem_content(error, path), status_code=status_of(error))
        response.raw_headers.extend(problem_headers(error))
        return response


def _open(config: EnclaveConfig, plain: Plain, trial: Trial | None) -> Opened:
    """Open an uploaded model in this process."""
    settings = OpeningSettings(
        engines=config.runtime.engines,
        reduced_precision=config.runtime.reduced_precision,
        threads=config.runtime.threads,
        max_batch=config.runtime.max_batch,
    )
    return open_model(plain.view, bundle=plain.bundle, settings=settings, trial=trial)


def check_path(path: bytes) -> None:
    """Refuse every path that could be read in two ways; no address of this server needs an escape.

    Raises:
        InvalidInput: `model.id` below the addresses of models, else `http.target`.
    """
    plain = path.isascii() and b"%" not in path and b"\\" not in path and b"//" not in path and b";" not in path
    if plain and not {b".", b".."} & set(path.split(b"/")):
        return
    if path.startswith(_MODEL_PREFIXES):
        raise InvalidInput("this is not the id of a model", code="model.id", hint=f"an id is {RULE}")
    raise InvalidInput("the path has characters that no address of this server has", code="http.target")


def _check_accept(path: str, headers: object) -> None:
    ranges = [
        part.partition(b";")[0].strip().lower().decode("latin-1")
        for name, value in cast("list[tuple[bytes, bytes]]", headers)
        if name == b"accept"
        for part in value.split(b",")
    ]
    if ranges and not {*ranges} & {"", "*/*", *_MEDIA_TYPES.get(path, _JSON_MEDIA_TYPES)}:
        raise InvalidInput("the answer would be of a type that Accept does not list", code="http.not_acceptable")


def _bodies_full(wanted: int, free: int) -> Unavailable:
    return Unavailable(
        f"the enclave has {free} bytes left for the bodies of requests, and this needs {wanted}",
        code="busy",
        hint="try again when others have ended",
    )
