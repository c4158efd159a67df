"""A control plane that lies, and a network that plays one, before a real enclave: what they can do, and what not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from structlog.testing import capture_logs

from blindai.cloud.keys import SigningKey
from blindai.errors import BlindAIError, CustodianError, QuotaExceeded, Unavailable
from blindai.wire import cloud as wire
from blindai.wire.api_key import ApiKey
from cloud_scene import EVERYTHING, CloudScene, JoinedEnclave, PlayedEnclave, RunningCloud, Tenant, eventually
from enclave_server import node_model
from lease_enclaves import Platform

WEIGHTS = np.array([2.5, -1.25, 7.0], np.float32)
MODEL = node_model(onnx.helper.make_node("Mul", ["x", "w"], ["y"]), size=3, w=WEIGHTS)
INPUT = np.array([[1.0, 2.0, 3.0]], np.float32)

Answers = Callable[[str, wire.AuthorisationRequest], wire.AuthorisationAnswer]


@dataclass
class Hostile:
    """A control plane whose answers a test writes, and an enclave that asks it.

    Attributes:
        honest: what it would answer.
    """

    scene: CloudScene
    running: RunningCloud
    enclave: JoinedEnclave
    alice: Tenant
    honest: Answers
    patch: pytest.MonkeyPatch
    asked: set[str] = field(default_factory=set)

    def answering(self, answers: Answers) -> None:
        """From now on questions are answered by `answers`."""

        def noted(instance: str, asked: wire.AuthorisationRequest) -> wire.AuthorisationAnswer:
            self.asked.update(asked.keys)
            return answers(instance, asked)

        self.patch.setattr(self.scene.plane.fleet, "authorise", noted)

    def code(self, key: ApiKey) -> str:
        """What a client with `key` is refused with, after the enclave has asked."""
        with self.enclave.client(key) as client, pytest.raises(BlindAIError) as caught:
            client.predict("alice/scale", INPUT)
        assert key.digest in self.asked
        return caught.value.code

    def answers_honestly(self) -> bool:
        """Whether somebody with a new key is answered."""
        with self.enclave.client(self.scene.key(self.alice.user, "alice")) as client:
            try:
                client.predict("alice/scale", INPUT)
            except Unavailable:
                return False
        return True

    def signed(self, assertion: wire.Assertion, key: SigningKey | None = None) -> wire.SignedAssertion:
        sign = self.scene.plane.sign if key is None else key.sign
        return wire.SignedAssertion(assertion, sign(assertion.message).hex())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, platform: Platform) -> Iterator[Hostile]:
    with (
        CloudScene(tmp_path_factory.mktemp("scene"), platform=platform) as scene,
        scene.served() as running,
        running.enclave(limits={"max_namespace_models": 2}) as enclave,
    ):
        alice = scene.tenant("alice")
        scene.allow("alice", per_minute=1_000_000)
        with enclave.client(alice.key) as client:
            client.upload_model(MODEL, model_id="alice/scale")
        yield Hostile(scene, running, enclave, alice, scene.plane.fleet.authorise, pytest.MonkeyPatch())


@pytest.fixture
def hostile(world: Hostile) -> Iterator[Hostile]:
    # After answers that it did not take, the enclave asks nothing for a moment.
    eventually(world.answers_honestly)
    with pytest.MonkeyPatch.context() as patch:
        world.patch = patch
        yield world


def test_the_honest_answer_is_taken(hostile: Hostile) -> None:
    with hostile.enclave.client(hostile.scene.key(hostile.alice.user, "alice")) as client:
        np.testing.assert_allclose(client.predict("alice/scale", INPUT).output[0].as_numpy(), INPUT * WEIGHTS)


ALTERED: dict[str, dict[str, Any]] = {
    "another question": {"nonce": "ab" * 32},
    "another enclave": {"instance": "ab" * 32},
    "another key": {"key": "ab" * 32},
    "longer than a revocation may take": {"ttl_ms": wire.MAX_TTL_MS + 1},
    "no namespace": {"namespace": "Alice/../bob"},
}


@pytest.mark.parametrize("change", ALTERED.values(), ids=ALTERED)
def test_an_assertion_that_answers_something_else_is_worth_nothing(hostile: Hostile, change: dict[str, Any]) -> None:
    def answers(instance: str, asked: wire.AuthorisationRequest) -> wire.AuthorisationAnswer:
        told = hostile.honest(instance, asked)
        changed = [msgspec.structs.replace(one.assertion, **change) for one in told.assertions]
        return wire.AuthorisationAnswer(tuple(hostile.signed(one) for one in changed))

    key = hostile.scene.key(hostile.alice.user, "alice")
    hostile.answering(answers)
    assert hostile.code(key) == "unavailable.cloud"


def test_an_assertion_of_before_is_worth_nothing(hostile: Hostile) -> None:
    """What was signed for this very key and this very enclave a moment ago does not answer this question."""
    kept: list[wire.AuthorisationAnswer] = []

    def recording(instance: str, asked: wire.AuthorisationRequest) -> wire.AuthorisationAnswer:
        told = hostile.honest(instance, asked).assertions
        short = [msgspec.structs.replace(one.assertion, ttl_ms=500) for one in told]
        kept.append(wire.AuthorisationAnswer(tuple(hostile.signed(one) for one in short)))
        return kept[-1]

    key = hostile.scene.key(hostile.alice.user, "alice")
    hostile.answering(recording)
    with hostile.enclave.client(key) as client:
        client.predict("alice/scale", INPUT)
    replayed = next(one for one in kept if any(each.assertion.key == key.digest for each in one.assertions))
    hostile.scene.plane.accounts.revoke_key(hostile.alice.user, "alice", key.id)
    hostile.answering(lambda _instance, _asked: replayed)
    codes: list[str] = []

    def refused() -> bool:
        try:
            client.predict("alice/scale", INPUT)
        except BlindAIError as error:
            codes.append(error.code)
        return bool(codes)

    with hostile.enclave.client(key) as client:
        eventually(refused)
    assert codes == ["unavailable.cloud"]


def test_another_key_signs_nothing(hostile: Hostile) -> None:
    other = SigningKey.generate()

    def answers(instance: str, asked: wire.AuthorisationRequest) -> wire.AuthorisationAnswer:
        told = hostile.honest(instance, asked)
        return wire.AuthorisationAnswer(tuple(hostile.signed(one.assertion, other) for one in told.assertions))

    key = hostile.scene.key(hostile.alice.user, "alice")
    hostile.answering(answers)
    assert hostile.code(key) == "unavailable.cloud"


@pytest.mark.parametrize("change", [{"scopes": EVERYTHING}, {"namespace": "alice"}, {"key_id": "bai_sk_00000000"}])
def test_a_signature_is_of_every_word(hostile: Hostile, change: dict[str, Any]) -> None:
    """Whoever holds the line open, but not the key, turns no query into an upload, and no account into another."""
    mallory = hostile.scene.join(f"mallory-{'-'.join(change).replace('_', '-')}")
    key = hostile.scene.key(mallory, hostile.scene.plane.accounts.memberships(mallory)[0].namespace, wire.Scope.QUERY)

    def answers(instance: str, asked: wire.AuthorisationRequest) -> wire.AuthorisationAnswer:
        told = hostile.honest(instance, asked)
        changed = [(msgspec.structs.replace(one.assertion, **change), one.signature) for one in told.assertions]
        return wire.AuthorisationAnswer(tuple(wire.SignedAssertion(*one) for one in changed))

    hostile.answering(answers)
    assert hostile.code(key) == "unavailable.cloud"


def test_an_answer_that_was_held_back_for_longer_than_it_is_good_is_worth_nothing(hostile: Hostile) -> None:
    """Time counts from the question, by the enclave's own clock: nobody makes an assertion last by being slow."""

    def answers(instance: str, asked: wire.AuthorisationRequest) -> wire.AuthorisationAnswer:
        told = hostile.honest(instance, asked)
        short = [msgspec.structs.replace(one.assertion, ttl_ms=50) for one in told.assertions]
        time.sleep(0.1)
        return wire.AuthorisationAnswer(tuple(hostile.signed(one) for one in short))

    key = hostile.scene.key(hostile.alice.user, "alice")
    hostile.answering(answers)
    assert hostile.code(key) == "unavailable.cloud"


# The network.


def test_whoever_answers_in_place_of_the_control_plane_hears_no_question(
    hostile: Hostile, tmp_path_factory: pytest.TempPathFactory, platform: Platform
) -> None:
    """Another control plane sits at the address in the configuration: it has every right but the key."""
    key = hostile.scene.key(hostile.alice.user, "alice")
    heard: list[object] = []
    with CloudScene(tmp_path_factory.mktemp("other"), platform=platform) as other, other.served() as elsewhere:
        hostile.patch.setattr(other.plane.fleet, "authorise", lambda *asked: heard.append(asked))
        hostile.patch.setattr(other.plane.fleet, "report", lambda *told: heard.append(told))
        hostile.patch.setattr(other.plane.fleet, "admit", heard.append)
        table = hostile.scene.config("https://enclave.test:9443", elsewhere.enclaves)
        with capture_logs() as logs, elsewhere.enclave(**table) as enclave, enclave.client(key) as client:
            with pytest.raises(BlindAIError) as caught:
                client.predict("alice/scale", INPUT)
            assert caught.value.code == "unavailable.cloud"
        assert {one["code"] for one in logs if one["event"] == "control_plane"} == {"custodian.signature"}
        played = PlayedEnclave(hostile.scene, "https://enclave.test:9443", table)
        with pytest.raises(CustodianError) as refused:
            played.call(elsewhere.enclaves)
        assert refused.value.code == "custodian.signature"
    assert heard == []


# What it can do. The threat model says so, and here is that it says the truth.


def test_whoever_holds_the_signing_key_is_everybody(hostile: Hostile) -> None:
    """It makes up a key and says that it is the owner's: the model answers, to inputs of its own."""
    own = ApiKey.new()

    def answers(instance: str, asked: wire.AuthorisationRequest) -> wire.AuthorisationAnswer:
        forged = [
            wire.Assertion(
                nonce=asked.nonce,
                instance=instance,
                key=digest,
                key_id=own.id,
                namespace="alice",
                scopes=EVERYTHING,
                quotas=wire.Quotas(
                    models=wire.MAX_COUNT, model_bytes=wire.MAX_COUNT, requests_per_minute=wire.MAX_COUNT
                ),
            )
            for digest in asked.keys
        ]
        return wire.AuthorisationAnswer(tuple(hostile.signed(one) for one in forged))

    hostile.answering(answers)
    with hostile.enclave.client(own) as client:
        np.testing.assert_allclose(client.predict("alice/scale", INPUT).output[0].as_numpy(), INPUT * WEIGHTS)
        client.upload_model(MODEL, model_id="alice/forged")
        # The limits in the measured configuration hold, whatever it grants.
        with pytest.raises(QuotaExceeded) as caught:
            client.upload_model(MODEL, model_id="alice/more")
        assert caught.value.code == "quota.namespace_models"
        client.delete_model("alice/forged")


def test_it_can_refuse_everybody(hostile: Hostile) -> None:
    def nobody(_: str, asked: wire.AuthorisationRequest) -> wire.AuthorisationAnswer:
        return wire.AuthorisationAnswer(refused=tuple(wire.Refused(key) for key in asked.keys))

    key = hostile.scene.key(hostile.alice.user, "alice")
    hostile.answering(nobody)
    assert hostile.code(key) == "authentication.key"
