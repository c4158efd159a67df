"""A whole cloud: a control plane with its database, enclaves attested to it, and clients that attest the enclaves.

The enclaves run in this process, as the control plane does; what is between them are sockets, TLS and evidence.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from blindai import Connection
from blindai.attestation.policy import Policy
from blindai.channel.calling import CallingEnd
from blindai.channel.end import AttestedEnd
from blindai.cloud.fleet.fleet import Fleet
from blindai.cloud.tables import namespaces
from blindai.enclave.config import EnclaveConfig
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.errors import AuthenticationError, BlindAIError, ModelNotFound, PermissionDenied, QuotaExceeded
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import AuthorisationRequest, Report, Scope
from cloud_scene import CloudScene, RunningCloud
from enclave_server import RunningServer, node_model

MODEL = node_model(onnx.helper.make_node("Mul", ["x", "w"], ["y"]), size=3, w=np.array([2.5, -1.25, 7.0], np.float32))
ENDPOINT = "https://enclave.test:9443"

# A number that appears in inputs alone, one in outputs alone: nobody else has them.
SECRET = np.array([[1234.5678, 8765.4321, 555.25]], np.float32)

TRIES = 30


class Cloud:
    """A control plane that is served, and an enclave of it.

    Attributes:
        received: what the control plane took from enclaves.
    """

    def __init__(self, scene: CloudScene, running: RunningCloud) -> None:
        self.scene = scene
        self.running = running
        self.received: list[AuthorisationRequest | Report] = []
        self.enclave = self.join()
        self.alice = scene.join("alice")
        self.bob = scene.join("bob")

    def join(self, endpoint: str = ENDPOINT) -> RunningServer:
        """Start an enclave that belongs to it."""
        tables = {"runtime": {"isolation": "thread"}, **self.scene.config(endpoint, self.running.enclaves)}
        config = msgspec.convert(tables, EnclaveConfig)
        measured, attester = msgspec.to_builtins(config), self.scene.platform.attester
        return RunningServer(
            config,
            OnnxRuntimeEngine(),
            simulated=True,
            end=AttestedEnd(attester, measured),
            calling=CallingEnd(attester, measured),
        )

    def connect(self, key: ApiKey | None) -> Connection:
        policy = Policy.parse(self.scene.platform.manifest, "the test")
        address = f"https://127.0.0.1:{self.enclave.port}"
        return Connection(address, api_key=None if key is None else key.text, policy=policy, progress=False)

    def allow(self, namespace: str, **quotas: int) -> None:
        """Change what an account may do."""
        with self.scene.plane.database.write() as connection:
            row = namespaces.c.name == namespace
            connection.execute(namespaces.update().where(row).values(quotas))

    def eventually(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    heard: list[AuthorisationRequest | Report] = []

    def listening(method: Callable[..., Any]) -> Callable[..., Any]:
        def listen(fleet: Fleet, instance: str, told: AuthorisationRequest | Report) -> Any:
            heard.append(told)
            return method(fleet, instance, told)

        return listen

    with (
        pytest.MonkeyPatch.context() as patch,
        CloudScene(tmp_path_factory.mktemp("cloud")) as scene,
        scene.served() as running,
    ):
        patch.setattr(Fleet, "authorise", listening(Fleet.authorise))
        patch.setattr(Fleet, "report", listening(Fleet.report))
        one = Cloud(scene, running)
        one.received = heard
        yield one
        one.enclave.stop()


def refusal(query: Callable[[], object], kind: type[BlindAIError]) -> str:
    with pytest.raises(kind) as raised:
        query()
    return raised.value.code


def test_a_key_uploads_queries_and_shares_and_counts_are_reported(cloud: Cloud) -> None:
    scene = cloud.scene
    with (
        cloud.connect(scene.key(cloud.alice, "alice")) as alice,
        cloud.connect(scene.key(cloud.bob, "bob", Scope.QUERY)) as bob,
        cloud.connect(None) as stranger,
    ):
        alice.upload_model(MODEL, model_id="alice/scale")
        np.testing.assert_allclose(alice.predict("alice/scale", SECRET).output[0].as_numpy(), SECRET * [2.5, -1.25, 7])
        assert refusal(lambda: bob.predict("alice/scale", SECRET), ModelNotFound) == "model.not_found"
        assert refusal(lambda: stranger.predict("alice/scale", SECRET), ModelNotFound) == "model.not_found"
        assert (
            refusal(lambda: bob.upload_model(MODEL, model_id="alice/mine"), PermissionDenied) == "permission.namespace"
        )
    cloud.eventually(lambda: scene.plane.fleet.usage("alice").month_queries == 1)
    (listed,) = scene.plane.fleet.models("alice")
    assert (listed.endpoint, listed.listing.name, listed.listing.bytes) == (ENDPOINT, "scale", len(MODEL))
    assert [spec.name for spec in listed.listing.inputs] == ["x"]
    report = scene.plane.fleet.usage("alice")
    assert (report.models, report.bytes, sum(hour.uploads for hour in report.hours)) == (1, len(MODEL), 1)


def test_a_receipt_is_signed_for_whoever_may_query(cloud: Cloud) -> None:
    with cloud.connect(cloud.scene.key(cloud.alice, "alice")) as alice:
        uploaded = alice.upload_model(MODEL, model_id="alice/signed")
        signed = alice.predict("alice/signed", SECRET, sign=True)
    assert signed.receipt is not None
    assert signed.receipt.model_digest == uploaded.sha256


def test_the_enclave_stands_in_the_directory_as_its_evidence_says(cloud: Cloud) -> None:
    (endpoint,) = cloud.scene.plane.fleet.directory("a cloud").endpoints
    assert (endpoint.address, endpoint.simulated) == (ENDPOINT, True)
    (instance,) = cloud.scene.plane.fleet.instances()
    assert (instance.endpoint, instance.current) == (ENDPOINT, True)


def test_the_control_plane_never_hears_of_content(cloud: Cloud) -> None:
    """Nor does it write any of it down: neither tensors, weights, or answers, nor digests of them, nor a key."""
    key = cloud.scene.key(cloud.alice, "alice")
    with cloud.connect(key) as alice:
        uploaded = alice.upload_model(MODEL, model_id="alice/secret")
        answer = alice.predict("alice/secret", SECRET).output[0].as_numpy()
    cloud.eventually(lambda: any(row.listing.name == "secret" for row in cloud.scene.plane.fleet.models("alice")))
    heard = msgspec.json.encode(cloud.received)
    written = b"".join(path.read_bytes() for path in sorted(Path(cloud.scene.folder).rglob("*")) if path.is_file())
    assert b"alice" in heard
    assert b"alice" in written
    numbers = [*SECRET.ravel(), *answer.ravel(), np.float32(-1.25)]
    needles = [key.text.encode(), uploaded.sha256.encode(), MODEL[:64]]
    needles += [number.tobytes() for number in numbers[:-1]] + [repr(float(number)).encode() for number in numbers]
    for needle in needles:
        assert needle not in heard, needle
        assert needle not in written, needle


def test_a_revoked_key_is_refused_within_five_seconds(cloud: Cloud, figures: Callable[[str], None]) -> None:
    """With many keys in use all the time, each revoked at another moment between two of the enclave's questions."""
    cloud.allow("alice", per_minute=1_000_000)
    with cloud.connect(cloud.scene.key(cloud.alice, "alice")) as alice:
        alice.upload_model(MODEL, model_id="alice/revoked")
    keys = [cloud.scene.key(cloud.alice, "alice", Scope.QUERY) for _ in range(TRIES)]
    waiting = dict.fromkeys(keys)
    in_use, revoked, times = {key: cloud.connect(key) for key in keys}, {}, []
    try:
        while in_use:
            if waiting:
                key, _ = waiting.popitem()
                in_use[key].predict("alice/revoked", SECRET)
                cloud.scene.plane.accounts.revoke_key(cloud.alice, "alice", key.id)
                revoked[key] = time.monotonic()
            for key, connection in list(in_use.items()):
                try:
                    connection.predict("alice/revoked", SECRET)
                except AuthenticationError as error:
                    assert error.code == "authentication.key"  # noqa: PT017 - of many, one after the other
                    times.append(time.monotonic() - revoked[key])
                    in_use.pop(key).close()
            assert all(time.monotonic() - since < 20 for key, since in revoked.items() if key in in_use)
    finally:
        for connection in in_use.values():
            connection.close()
    figures(
        f"revoked to refused, {len(times)} keys in use: p50 {statistics.median(times):.2f} s, max {max(times):.2f} s"
    )
    assert len(times) == TRIES


def test_models_beyond_the_account_s_quota_are_refused_before_their_body_is_read(cloud: Cloud) -> None:
    carol = cloud.scene.join("carol")
    cloud.allow("carol", max_models=1)
    with cloud.connect(cloud.scene.key(carol, "carol")) as client:
        client.upload_model(MODEL, model_id="carol/one")
        code = refusal(lambda: client.upload_model(MODEL, model_id="carol/two"), QuotaExceeded)
        assert code == "quota.account_models"


def test_the_models_of_an_account_that_is_closed_are_deleted_in_the_enclave(cloud: Cloud) -> None:
    accounts = cloud.scene.plane.accounts
    accounts.create_organisation(cloud.alice, "alice-and-co")
    repository = cloud.enclave.application.repository

    def held(namespace: str) -> int:
        return len(cloud.enclave.call(lambda: [found for found in repository if found.id.namespace == namespace]))

    with (
        cloud.connect(cloud.scene.key(cloud.alice, "alice-and-co")) as theirs,
        cloud.connect(cloud.scene.key(cloud.alice, "alice")) as hers,
    ):
        theirs.upload_model(MODEL, model_id="alice-and-co/scale")
        hers.upload_model(MODEL, model_id="alice/kept")
        cloud.eventually(lambda: bool(cloud.scene.plane.fleet.models("alice-and-co")))
        accounts.close(cloud.alice, "alice-and-co")
        assert held("alice-and-co") == 1
        hers.predict("alice/kept", SECRET)
        cloud.eventually(lambda: held("alice-and-co") == 0)
        cloud.eventually(lambda: cloud.scene.plane.fleet.models("alice-and-co") == ())
        hers.predict("alice/kept", SECRET)


def test_an_enclave_of_another_control_plane_is_not_admitted(cloud: Cloud, tmp_path: Path) -> None:
    """It asks, is refused at the gate, and serves nobody who has a key."""
    with CloudScene(tmp_path, platform=cloud.scene.platform) as other:
        key = cloud.scene.key(cloud.bob, "bob")
        tables = {
            "runtime": {"isolation": "thread"},
            **other.config("https://other.test:1", cloud.running.enclaves),
        }
        config = msgspec.convert(tables, EnclaveConfig)
        calling = CallingEnd(other.platform.attester, msgspec.to_builtins(config))
        enclave = RunningServer(config, OnnxRuntimeEngine(), simulated=True, calling=calling)
        try:
            answer = enclave.request("POST", "/v2/repository/index", b"", f"Authorization: Bearer {key.text}")
            answer.assert_problem(503, "unavailable.cloud")
        finally:
            enclave.stop()
