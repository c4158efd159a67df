"""A sealed model opens for its key alone, whole and unchanged, and no plaintext stays behind whatever happens."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from blindai.client.model_file import ModelBody
from blindai.crypto.stream import TAG_BYTES, StreamEncryptor
from blindai.custody.sealing import seal
from blindai.enclave.config import Limits
from blindai.enclave.engine import Engine, Session
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.enclave.models.model_id import ModelId
from blindai.enclave.models.model_version import ModelVersion, State
from blindai.enclave.models.repository import FIRST_LOADS, Repository
from blindai.enclave.models.sealed_model import SealedFile, opened
from blindai.errors import BlindAIError, InvalidInput, InvalidModel, ModelNotFound
from blindai.wire.bundle import BUNDLE_TYPE, ONNX_TYPE
from blindai.wire.custody import MAX_ARTEFACT_BYTES
from blindai.wire.sealed_model import MAX_CHUNK_BYTES, Head, SealedHeader, read_head
from blindai.wire.tensor import Tensor
from onnx_models import model, value
from repositories import ThreadRepository, upload

KEY = bytes(range(32))
ID = ModelId("acme", "net")
CHUNK = 64


def seal_bytes(body: bytes, *, content_type: str = ONNX_TYPE, chunk_bytes: int = CHUNK, **changes: Any) -> bytes:
    """A sealed model in memory; `changes` are lies of its header."""
    fields = {"size": len(body), "model_digest": hashlib.sha256(body).hexdigest(), **changes}
    header = SealedHeader(content_type=cast(Any, content_type), chunk_bytes=chunk_bytes, salt="5a" * 32, **fields)
    key = header.key(KEY)
    encryptor = StreamEncryptor(key, chunk_bytes=chunk_bytes)
    sealed = Head(header, key.commitment).encoded
    for start in range(0, len(body), chunk_bytes):
        part = body[start : start + chunk_bytes]
        target = bytearray(len(part) + TAG_BYTES)
        encryptor.encrypt_into(part, target, last=start + chunk_bytes >= len(body))
        sealed += target
    return sealed


def open_bytes(sealed: bytes, key: bytes = KEY) -> tuple[bytes, dict[str, bytes]]:
    def read(offset: int, length: int) -> Future[bytes]:
        assert 1 <= length <= MAX_ARTEFACT_BYTES
        done: Future[bytes] = Future()
        done.set_result(sealed[offset : offset + length])
        return done

    with opened(read_head(sealed), key, read) as plaintext:
        held = plaintext
        copies = bytes(bytearray(plaintext.model)), {name: bytes(view) for name, view in plaintext.external.items()}
    assert len(held.model) < 2 or not any(held.model), "the model is not wiped"
    assert not any(any(view) for view in held.external.values()), "external data is not wiped"
    return copies


def code_of(sealed: bytes, key: bytes = KEY) -> str:
    with pytest.raises(BlindAIError) as caught:
        open_bytes(sealed, key)
    return caught.value.code


class Source:
    """A sealed model in memory, as a custodian sends it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads: list[tuple[int, int]] = []

    async def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        await asyncio.sleep(0)
        return self.data[offset : offset + length]


@dataclass
class Held:
    """What the engine was given, for the test to look at afterwards."""

    model: Any = None
    external: Mapping[str, Any] = field(default_factory=dict)
    closed: int = 0


class HeldEngine:
    """Loads anything but b"bad", once `gate` is open."""

    platform = "held"
    inputs = outputs = optional = ()
    memory = 3

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.loading = threading.Event()
        self.held = Held()

    def load(self, model: Any, external: Mapping[str, Any]) -> Session:
        self.loading.set()
        assert self.gate.wait(20)
        self.held.model, self.held.external = model, external
        if bytes(model[:3]) == b"bad":
            raise InvalidModel("bad", code="model.invalid")
        return cast(Session, self)

    def close(self) -> None:
        self.held.closed += 1


def repository(engine: object, **limits: int) -> ThreadRepository:
    return ThreadRepository(cast(Engine, engine), Limits(**limits))


async def install(models: Repository, sealed: bytes, digest: str | None = None) -> ModelVersion:
    granted = digest or read_head(sealed).header.model_digest
    return await models.install_leased(ID, Source(sealed), KEY, model_digest=granted)


async def refused(run: Awaitable[object]) -> str:
    with pytest.raises(BlindAIError) as caught:
        await run
    return caught.value.code


BODY = os.urandom(3 * CHUNK + 10)


@pytest.mark.parametrize("size", [2, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK])
def test_a_model_opens_with_its_key_and_is_wiped(size: int) -> None:
    body = os.urandom(size)
    assert open_bytes(seal_bytes(body)) == (body, {})


def test_another_key_opens_nothing() -> None:
    assert code_of(seal_bytes(BODY), bytes(32)) == "model.sealed_key"


def test_every_truncation_is_refused() -> None:
    sealed = seal_bytes(BODY)
    start = read_head(sealed).header.header_bytes
    assert {code_of(sealed[:length]) for length in range(start)} == {"model.sealed_header"}
    assert {code_of(sealed[:length]) for length in range(start, len(sealed))} == {"model.sealed_truncated"}


def test_every_changed_byte_is_refused() -> None:
    sealed = seal_bytes(BODY)
    header = read_head(sealed).header
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        if position >= header.header_bytes:
            number = (position - header.header_bytes) // (CHUNK + TAG_BYTES)
            with pytest.raises(InvalidModel, match=f"chunk {number} ") as caught:
                open_bytes(bytes(changed))
            assert caught.value.code == "model.sealed_chunk"
        else:
            assert code_of(bytes(changed)) in {"model.sealed_header", "model.sealed_key"}


def test_appended_bytes_and_chunks_are_refused() -> None:
    sealed = seal_bytes(BODY[: 2 * CHUNK])
    for more in (b"x", sealed[-CHUNK - TAG_BYTES :], bytes(1000)):
        assert code_of(sealed + more) == "model.sealed_size"


def test_reordered_missing_and_repeated_chunks_are_refused() -> None:
    sealed = seal_bytes(BODY[: 3 * CHUNK])
    start, step = read_head(sealed).header.header_bytes, CHUNK + TAG_BYTES
    head, chunks = sealed[:start], [sealed[start + n * step : start + (n + 1) * step] for n in range(3)]
    for order in ([1, 0, 2], [0, 2, 1], [0, 0, 2], [0, 1, 1], [2, 1, 0], [0, 2, 2]):
        assert code_of(head + b"".join(chunks[number] for number in order)) == "model.sealed_chunk"
    assert code_of(head + chunks[0] + chunks[2]) in {"model.sealed_chunk", "model.sealed_truncated"}


def test_a_header_that_lies_about_the_model_is_refused() -> None:
    assert code_of(seal_bytes(BODY, model_digest="00" * 32)) == "model.sealed_digest"
    assert code_of(seal_bytes(BODY, size=len(BODY) + 1)) == "model.sealed_truncated"
    assert code_of(seal_bytes(BODY, size=len(BODY) - 1)) == "model.sealed_chunk"
    assert code_of(seal_bytes(BODY, content_type=BUNDLE_TYPE)) == "model.bundle"


@pytest.mark.parametrize("chunk_bytes", [MAX_CHUNK_BYTES, MAX_CHUNK_BYTES - 16, 1 << 20])
def test_a_large_model_is_read_in_parts_that_a_custodian_sends(chunk_bytes: int) -> None:
    body = os.urandom(1 << 20) * 18
    sealed = seal_bytes(body, chunk_bytes=chunk_bytes)
    assert open_bytes(sealed)[0] == body
    assert code_of(sealed + b"x") == "model.sealed_size"


@pytest.fixture(scope="module")
def with_external_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as exporters write it, its weights in files beside it."""
    folder = tmp_path_factory.mktemp("external")
    weights = np.arange(64 * 64, dtype=np.float32).reshape(64, 64) / 4096
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    made = onnx.load_from_string(
        model(
            nodes,
            inputs=[value("x", shape=(1, 64))],
            outputs=[value("y", shape=(1, 64))],
            initializers=[numpy_helper.from_array(weights, "w"), numpy_helper.from_array(weights[0], "b")],
        )
    )
    onnx.save_model(
        made, folder / "model.onnx", save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=16
    )
    return folder / "model.onnx"


def test_a_bundle_gives_the_files_it_was_made_of(with_external_data: Path) -> None:
    body = ModelBody.open(with_external_data)
    sealed = seal_bytes(b"".join(bytes(chunk) for chunk in body.chunks()), content_type=body.content_type)
    model_file, external = open_bytes(sealed)
    assert model_file == with_external_data.read_bytes()
    assert len(external) == 2
    assert external == {name: (with_external_data.parent / name).read_bytes() for name in external}


def test_a_bundle_is_judged_as_an_upload_is() -> None:
    assert code_of(seal_bytes(bytes(1024), content_type=BUNDLE_TYPE)) == "model.bundle"


@pytest.mark.parametrize("size", [0, 1, 2])
def test_a_bundle_with_a_tiny_file_opens(size: int) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo("model.onnx")
        member.size = size
        tar.addfile(member, io.BytesIO(b"xy"[:size]))
    assert open_bytes(seal_bytes(stream.getvalue(), content_type=BUNDLE_TYPE)) == (b"xy"[:size], {})


def test_a_leased_model_runs_and_its_content_is_not_kept(with_external_data: Path, tmp_path: Path) -> None:
    body = ModelBody.open(with_external_data)
    made = seal(
        body.chunks(),
        size=body.content_length,
        model_digest=body.sha256.hex(),
        content_type=body.content_type,
        target=tmp_path / "model.sealed",
        key=KEY,
    )

    async def main() -> None:
        models = repository(OnnxRuntimeEngine())
        leased = await models.install_leased(ID, SealedFile(made.path), KEY, model_digest=made.header.model_digest)
        assert (leased.state, leased.leased, leased.number) == (State.READY, True, "1")
        assert models.resolve(ID) is leased
        assert leased.content is None
        assert leased.sha256 == made.header.model_digest
        assert models.memory.used == body.content_length
        leased.begin_run()
        session = leased.session
        assert session is not None
        (answer,) = session.run({"x": Tensor("x", "FP32", np.ones((1, 64), np.float32))})
        leased.end_run()
        weights = np.arange(64 * 64, dtype=np.float32).reshape(64, 64) / 4096
        np.testing.assert_allclose(answer.data, [weights.sum(0) + weights[0]], rtol=1e-5)

        await models.revoke(leased, reason="lease.stopped")
        assert (leased.state, leased.reason, leased.session) == (State.UNAVAILABLE, "lease.stopped", None)
        assert session._session is None  # type: ignore[attr-defined]  # whoever still has the session has no model
        assert models.memory.used == 0
        with pytest.raises(ModelNotFound) as caught:
            leased.begin_run()
        assert (caught.value.code, caught.value.hint) == ("model.not_loaded", "")
        await models.close()

    asyncio.run(main())


def test_the_engine_sees_the_plaintext_only_while_it_loads() -> None:
    async def main() -> None:
        engine = HeldEngine()
        models = repository(engine)
        await install(models, seal_bytes(BODY))
        assert len(engine.held.model) == len(BODY)
        assert not any(engine.held.model)
        await models.close()
        assert engine.held.closed == 1
        assert list(models) == []

    asyncio.run(main())


def test_a_refused_model_leaves_nothing() -> None:
    async def main() -> None:
        engine = HeldEngine()
        models = repository(engine, model_memory_bytes=1000, max_model_bytes=400, max_models=5)
        sealed = seal_bytes(BODY)
        changed = bytearray(sealed)
        changed[-1] ^= 1
        assert await refused(install(models, bytes(changed))) == "model.sealed_chunk"
        assert await refused(install(models, sealed[:-1])) == "model.sealed_truncated"
        assert not engine.loading.is_set()
        assert await refused(install(models, seal_bytes(b"bad" + BODY))) == "model.invalid"
        assert engine.held.model == bytes(3 + len(BODY))
        assert await refused(install(models, seal_bytes(bytes(401)))) == "quota.model_size"
        assert (list(models), models.pending, models.memory.used) == ([], set(), 0)
        await models.close()

    asyncio.run(main())


def test_another_model_than_granted_is_not_read() -> None:
    async def main() -> None:
        models = repository(HeldEngine())
        source = Source(seal_bytes(BODY))
        with pytest.raises(InvalidModel) as caught:
            await models.install_leased(ID, source, KEY, model_digest="00" * 32)
        assert caught.value.code == "model.sealed_digest"
        assert len(source.reads) == 1
        await models.close()

    asyncio.run(main())


def test_memory_is_taken_before_the_model_is_read() -> None:
    async def main() -> None:
        models = repository(HeldEngine(), model_memory_bytes=2 * len(BODY) - 1)
        source = Source(seal_bytes(BODY))
        assert (
            await refused(models.install_leased(ID, source, KEY, model_digest=hashlib.sha256(BODY).hexdigest()))
            == "quota.memory"
        )
        assert len(source.reads) == 1
        await models.close()

    asyncio.run(main())


def test_no_memory_left_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(size: int) -> None:
        raise MemoryError

    monkeypatch.setattr("blindai.enclave.models.sealed_model.fresh_bytes", none)
    assert code_of(seal_bytes(BODY)) == "quota.memory"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"gone\.sealed") as caught:
        asyncio.run(SealedFile(tmp_path / "gone.sealed").read(0, 10))
    assert caught.value.code == "model.file_unreadable"


def test_a_revoked_model_is_installed_again_under_its_name() -> None:
    async def main() -> None:
        models = repository(HeldEngine())
        first = await install(models, seal_bytes(BODY))
        assert await refused(install(models, seal_bytes(BODY))) == "model.version_exists"
        await models.revoke(first, reason="lease.stopped")
        await models.revoke(first, reason="lease.expired")
        assert first.reason == "lease.stopped"
        second = await install(models, seal_bytes(BODY))
        assert models.resolve(ID) is second
        assert second is not first
        await models.close()

    asyncio.run(main())


@pytest.mark.parametrize("change", [Repository.load, Repository.unload, Repository.delete])
def test_only_the_lease_changes_a_leased_model(change: Callable[..., Awaitable[None]]) -> None:
    async def main() -> None:
        models = repository(HeldEngine())
        leased = await install(models, seal_bytes(BODY))
        for version in (None, 1):
            with pytest.raises(InvalidInput) as caught:
                await change(models, ID, version)
            assert caught.value.code == "lease.managed"
        assert leased.state is State.READY
        await models.close()

    asyncio.run(main())


def test_versions_of_both_kinds_live_under_one_name() -> None:
    async def main() -> None:
        models = repository(HeldEngine())
        leased = await install(models, seal_bytes(BODY))
        uploaded = await upload(models, ID, b"abc")
        assert uploaded.number == "2"
        assert await refused(models.delete(ID)) == "lease.managed"
        await models.revoke(leased, reason="lease.stopped")
        assert models.resolve(ID) is uploaded
        again = await install(models, seal_bytes(BODY))
        assert [*models] == [again, uploaded]
        await models.delete(ID, 2)
        assert [*models] == [again]
        await models.close()
        assert list(models) == []

    asyncio.run(main())


def test_a_revocation_refuses_new_runs_at_once_and_waits_for_those_that_it_cancels() -> None:
    async def main() -> None:
        engine = HeldEngine()
        models = repository(engine)
        leased = await install(models, seal_bytes(BODY))
        leased.begin_run()
        cancelled: list[State] = []
        revoking = asyncio.ensure_future(
            models.revoke(leased, reason="lease.stopped", cancel=lambda: cancelled.append(leased.state))
        )
        await asyncio.sleep(0)
        assert cancelled == [State.UNLOADING]
        with pytest.raises(ModelNotFound, match=r"lease\.stopped"):
            leased.begin_run()
        await asyncio.sleep(0.02)
        assert not revoking.done()
        assert engine.held.closed == 0
        leased.end_run()
        await revoking
        assert engine.held.closed == 1
        await models.close()

    asyncio.run(main())


def test_a_revocation_does_not_wait_for_the_loads_of_others() -> None:
    async def main() -> None:
        engine = HeldEngine()
        models = repository(engine)
        leased = await install(models, seal_bytes(BODY))
        engine.gate.clear()

        names = [ModelId("acme", f"slow{number}") for number in range(FIRST_LOADS)]
        loads = [asyncio.ensure_future(upload(models, name, b"abc")) for name in names]
        await asyncio.sleep(0.02)
        async with asyncio.timeout(10):
            await models.revoke(leased, reason="lease.stopped")
        assert engine.held.closed == 1
        assert not any(load.done() for load in loads)
        engine.gate.set()
        await asyncio.gather(*loads)
        await models.close()

    asyncio.run(main())


def test_a_load_that_was_given_up_leaves_no_model() -> None:
    async def main() -> None:
        engine = HeldEngine()
        models = repository(engine)
        engine.gate.clear()
        loading = asyncio.ensure_future(install(models, seal_bytes(BODY)))
        await asyncio.to_thread(engine.loading.wait)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        engine.gate.set()
        await models.close()
        assert engine.held.closed == 1
        assert (list(models), models.pending, models.memory.used) == ([], set(), 0)

    asyncio.run(main())


def test_a_load_that_ends_as_it_is_given_up_leaves_no_model() -> None:
    async def main() -> None:
        engine = HeldEngine()
        models = repository(engine)
        loading = asyncio.ensure_future(install(models, seal_bytes(BODY)))
        while not list(models):
            await asyncio.sleep(0)
        loading.cancel()  # the model is in, and its caller has not been told yet
        with pytest.raises(asyncio.CancelledError):
            await loading
        assert engine.held.closed == 1
        assert [leased.state for leased in models] == [State.UNAVAILABLE]
        await models.close()

    asyncio.run(main())
