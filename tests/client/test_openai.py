"""The `openai` package on attested connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import openai
import pytest

import blindai
import text_models
from attested_speaker import AttestedSpeaker, Speech, read_request
from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.policy import Policy
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.channel.keyset import PrivateKeyset
from blindai.client.connection import Connection
from blindai.demo.impostor import Impostor
from blindai.enclave.config import EnclaveConfig, Limits
from blindai.errors import (
    AttestationError,
    BlindAIError,
    ConfigurationError,
    InvalidInput,
    ModelNotFound,
    QuotaExceeded,
    Unavailable,
)
from blindai.wire.openai import error_body
from enclave_server import RunningServer

Start = Callable[[Speech], AttestedSpeaker]


@pytest.fixture
def start(root: SimulatedRoot) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:
        yield lambda speech: stack.enter_context(AttestedSpeaker(speech, SimulatedAttester(root=root)))


def answers(*given: tuple[int, Any], headers: bytes = b"") -> Speech:
    """Says these, one after the other, whatever is asked; on any connection."""
    waiting = list(given)

    async def speech(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            status, body = waiting.pop(0)
            encoded = json.dumps(body).encode()
            writer.write(
                b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
                % (status, headers, len(encoded), encoded)
            )
            await writer.drain()

    return speech


MODELS = {"object": "list", "data": [{"id": "acme/minilm", "object": "model", "created": 1, "owned_by": "acme"}]}
NOT_FOUND = ModelNotFound("there is no such model", code="model.not_found", hint="look at /v1/models")


def event(text: str) -> bytes:
    chunk = {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": text}}],
    }
    data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


async def chat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Server-sent events, in parts that begin and end anywhere."""
    while True:
        await read_request(reader)
        writer.write(STREAM_HEAD)
        whole = event("one ") + event("two") + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
        for start in range(0, len(whole), 7):
            writer.write(whole[start : start + 7])
            await writer.drain()


class TestCalls:
    def test_requests_share_a_connection_and_carry_the_key(self, start: Start, policy: Policy) -> None:
        speaker = start(answers((200, MODELS), (200, MODELS)))
        with blindai.openai_client(speaker.address, policy=policy, api_key="sk-mine") as client:
            assert [model.id for model in client.models.list()] == ["acme/minilm"]
            assert [model.id for model in client.models.list()] == ["acme/minilm"]
        assert speaker.connections == 1
        assert speaker.heard.count(b"Bearer sk-mine") == 2
        assert speaker.heard.startswith(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:")

    def test_nothing_of_the_environment_is_sent(
        self, start: Start, policy: Policy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
            monkeypatch.setenv(name, "from-the-environment")
        for name in ("HTTPS_PROXY", "ALL_PROXY", "OPENAI_BASE_URL"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        speaker = start(answers((200, MODELS)))
        with blindai.openai_client(speaker.address, policy=policy) as client:
            client.models.list()
        assert b"from-the-environment" not in speaker.heard
        assert b"authorization" not in speaker.heard.lower()

    def test_a_stream(self, start: Start, policy: Policy) -> None:
        with blindai.openai_client(start(chat).address, policy=policy) as client:
            for _ in range(2):
                stream = client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "x"}], stream=True
                )
                assert "".join(part.choices[0].delta.content or "" for part in stream) == "one two"

    def test_the_same_on_asyncio(self, start: Start, policy: Policy) -> None:
        speaker = start(chat)

        async def main() -> None:
            async with blindai.async_openai_client(speaker.address, policy=policy) as client:

                async def ask() -> str:
                    stream = await client.chat.completions.create(
                        model="m", messages=[{"role": "user", "content": "x"}], stream=True
                    )
                    return "".join([part.choices[0].delta.content or "" async for part in stream])

                assert await asyncio.gather(*(ask() for _ in range(5))) == ["one two"] * 5
                assert await ask() == "one two"

        asyncio.run(main())
        assert 1 <= speaker.connections <= 5


class TestErrors:
    def test_a_refused_enclave_gets_nothing(self, policy: Policy) -> None:
        with (
            Impostor(lambda _: b"{}", PrivateKeyset(datetime.now(UTC))) as impostor,
            pytest.raises(AttestationError) as caught,
        ):
            blindai.openai_client(impostor.address, policy=policy, api_key="sk-mine")
        assert caught.value.code == "channel.not_attested"
        assert impostor.application_bytes == 0

    def test_it_comes_out_as_itself_on_asyncio_and_is_not_tried_again(self, policy: Policy) -> None:
        with Impostor(lambda _: b"{}", PrivateKeyset(datetime.now(UTC))) as impostor:

            async def main() -> None:
                async with blindai.async_openai_client(impostor.address, policy=policy) as client:
                    await client.models.list()

            with pytest.raises(AttestationError) as caught:
                asyncio.run(main())
        assert caught.value.code == "channel.not_attested"
        assert not isinstance(caught.value, openai.OpenAIError)
        assert (impostor.gate_requests, impostor.application_bytes) == (1, 0)

    def test_a_refusal_of_the_server_is_of_both_families(self, start: Start, policy: Policy) -> None:
        speaker = start(answers((404, json.loads(error_body(NOT_FOUND)))))
        with blindai.openai_client(speaker.address, policy=policy) as client:
            with pytest.raises(ModelNotFound) as caught:
                client.models.retrieve("acme/none")
            error: Any = caught.value  # of two families, which is news to a type checker
            assert (error.code, error.status_code, error.hint) == ("model.not_found", 404, "look at /v1/models")
            assert isinstance(error, openai.NotFoundError)
            assert "there is no such model [model.not_found]" in str(error)

    def test_openai_tries_again_when_it_is_told_to(self, start: Start, policy: Policy) -> None:
        full = (429, {"error": "wait", "code": "quota.queue"})
        speaker = start(answers(full, (200, MODELS), full, headers=b"Retry-After: 0\r\n"))
        with blindai.openai_client(speaker.address, policy=policy) as client:
            client.models.list()
            with pytest.raises(QuotaExceeded) as caught:
                client.with_options(max_retries=0).models.list()
        error: Any = caught.value
        assert isinstance(error, openai.RateLimitError)
        assert error.code == "quota.queue"

    def test_an_answer_that_never_comes(self, start: Start, policy: Policy) -> None:
        async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            await reader.read()

        with blindai.openai_client(start(silent).address, policy=policy, timeout=0.5, max_retries=0) as client:
            with pytest.raises(Unavailable) as caught:
                client.models.list()
            error: Any = caught.value
            assert isinstance(error, openai.APITimeoutError)
            assert error.code == "unavailable.timeout"

    def test_a_stream_that_is_cut(self, start: Start, policy: Policy) -> None:
        async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(STREAM_HEAD + event("one "))
            await writer.drain()

        with blindai.openai_client(start(cut).address, policy=policy) as client:
            stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
            with pytest.raises(Unavailable) as caught:
                list(stream)
        assert caught.value.code == "unavailable.closed"

    def test_no_other_server_is_asked(self, start: Start, policy: Policy) -> None:
        async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 302 X\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()

        with blindai.openai_client(start(elsewhere).address, policy=policy) as client:
            with pytest.raises((ConfigurationError, openai.APIStatusError)):
                client.models.list()
            with pytest.raises(ConfigurationError) as caught:
                client.with_options(base_url="https://evil.example/v1").models.list()
        assert caught.value.code == "configuration.address"

    @pytest.mark.parametrize("option", ["base_url", "http_client", "provider"])
    def test_options_that_lead_elsewhere(self, policy: Policy, option: str) -> None:
        makers: list[Callable[..., Any]] = [blindai.openai_client, blindai.async_openai_client]
        for make in makers:
            with pytest.raises(ConfigurationError) as caught:
                make("https://127.0.0.1:1", policy=policy, **{option: None})
            assert caught.value.code == "configuration.openai_options"

    def test_where_the_package_is_missing(self) -> None:
        program = (
            "import sys; sys.modules['openai'] = None\n"
            "import blindai\n"
            "try:\n blindai.openai_client\n"
            "except blindai.ConfigurationError as error:\n print(error.code, error.hint)"
        )
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
        assert ended.stdout == "configuration.openai_missing pip install 'blindai[openai]'\n"


MODEL = "acme/minilm"
TEXTS = ["the patient is well", "no fever", "the patient has no fever and is well"]

REFUSALS: list[tuple[dict[str, Any], type[BlindAIError], type[openai.APIStatusError], str, str, str | None]] = [
    ({"model": "acme/none"}, ModelNotFound, openai.NotFoundError, "model.not_found", "is not here", "model"),
    ({"model": "minilm"}, InvalidInput, openai.BadRequestError, "model.id", "not the id of a model", "model"),
    ({"model": "acme/adder"}, InvalidInput, openai.ConflictError, "model.task", "makes no vectors of text", "model"),
    ({"input": [[1, 2]]}, InvalidInput, openai.BadRequestError, "input.tokens", "token ids", "input"),
    ({"input": {"a": "b"}}, InvalidInput, openai.BadRequestError, "input.message", "Expected `str | array`", None),
    ({"input": ["a"] * 2049}, QuotaExceeded, openai.APIStatusError, "quota.texts", "2048", "input"),
    ({"input": "a" * (1 << 18)}, QuotaExceeded, openai.APIStatusError, "quota.body", "the body of a request", None),
    (
        {"extra_headers": {"Content-Encoding": "gzip"}},
        InvalidInput,
        openai.APIStatusError,
        "http.content_encoding",
        "compressed bodies",
        None,
    ),
    (
        {"extra_headers": {"X-Long": "x" * 20_000}},
        InvalidInput,
        openai.APIStatusError,
        "http.headers_too_large",
        "headers",
        None,
    ),
]
"""What is asked, and what comes of it: in our family, in theirs, code, words, and the member that was wrong."""


@pytest.fixture(scope="module")
def embedder(start_enclave: Callable[..., RunningServer], policy: Policy, adder: bytes) -> RunningServer:
    """An enclave with a model that embeds text, and one that takes none; its models run in confined processes."""
    server = start_enclave(EnclaveConfig(limits=Limits(max_body_bytes=1 << 18)))
    with Connection(f"https://127.0.0.1:{server.port}", policy=policy) as connection:
        files = text_models.files()
        connection.upload_model(
            text_models.model(),
            model_id=MODEL,
            tokenizer=files["tokenizer.json"],
            task={"task": "embed", "max_tokens": 32},
        )
        connection.upload_model(adder, model_id="acme/adder")
    return server


class TestAnEnclave:
    def test_vectors(self, embedder: RunningServer, policy: Policy) -> None:
        with blindai.openai_client(f"https://127.0.0.1:{embedder.port}", policy=policy) as client:
            answer = client.embeddings.create(model=MODEL, input=TEXTS)
        vectors = np.array([one.embedding for one in answer.data], np.float32)
        assert vectors.tobytes() == text_models.session().run(text_models.inputs(TEXTS))[0].data.tobytes()

    @pytest.mark.parametrize(("asked", "ours", "theirs", "code", "words", "param"), REFUSALS)
    def test_refusals(
        self,
        embedder: RunningServer,
        policy: Policy,
        asked: dict[str, Any],
        ours: type[BlindAIError],
        theirs: type[openai.APIStatusError],
        code: str,
        words: str,
        param: str | None,
    ) -> None:
        request: dict[str, Any] = {"model": MODEL, "input": "well", **asked}
        address = f"https://127.0.0.1:{embedder.port}"

        async def ask() -> None:
            async with blindai.async_openai_client(address, policy=policy, max_retries=0) as client:
                await client.embeddings.create(**request)

        with blindai.openai_client(address, policy=policy, max_retries=0) as client:
            with pytest.raises(ours) as first:
                client.embeddings.create(**request)
            # The same client, on a connection that the refusal may have ended.
            assert client.embeddings.create(model=MODEL, input="well").data
        with pytest.raises(ours) as second:
            asyncio.run(ask())
        for caught in (first, second):
            error: Any = caught.value
            assert isinstance(error, theirs)
            assert (error.code, error.param) == (code, param)
            assert words in error.message
            assert f"[{code}]" in str(error)

    def test_hints_arrive(self, embedder: RunningServer, policy: Policy) -> None:
        with blindai.openai_client(f"https://127.0.0.1:{embedder.port}", policy=policy) as client:
            with pytest.raises(InvalidInput) as caught:
                client.embeddings.create(model=MODEL, input=[[1]])
            assert "LangChain" in caught.value.hint
            with pytest.raises(ModelNotFound):
                client.models.retrieve("acme/none")
