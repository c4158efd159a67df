"""Everything that a control plane hears and writes down during a whole journey, searched for what it must not know.

A tap records each byte of plaintext that both ports take in: what stands in the TLS connections of people and of
enclaves, the gate and its evidence included. The database is read table by table, and as the file that it is.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import numpy as np
import onnx
import pytest
import sqlalchemy as sa

from blindai.channel.receiving import ReceivingEnd
from blindai.cloud import tables
from blindai.enclave.cloud import reporter
from blindai.web.http import BoundedHttpProtocol
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import Scope
from cloud_scene import PASSWORD, CloudScene, RunningCloud, eventually
from enclave_server import node_model
from lease_enclaves import Platform

# Numbers that are nowhere else, in any form.
INPUT = np.array([[71.30517, -0.008321947, 93517.125]], np.float32)
WEIGHTS = np.array([3.1622777, -11.71875, 0.0009765625], np.float32)
OUTPUT = INPUT * WEIGHTS
MODEL = node_model(onnx.helper.make_node("Mul", ["x", "weights_of_alice"], ["y"]), size=3, weights_of_alice=WEIGHTS)


@dataclass(frozen=True)
class Journey:
    """What there was to hear.

    Attributes:
        received: by the two ports.
        written: the database, and every file beside it.
        texts: of the keys.
    """

    received: bytes
    written: bytes
    digests: tuple[str, ...]
    texts: tuple[str, ...]


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory, platform: Platform) -> Journey:
    folder = tmp_path_factory.mktemp("scene")
    heard: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        _tap(patch, heard)
        patch.setattr(reporter, "_PAUSE_SECONDS", 0.1)
        with CloudScene(folder, platform=platform) as scene:
            with scene.served() as running:
                keys = _walk(scene, running)
            written = _rows(scene) + b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return Journey(b"".join(heard), written, tuple(key.digest for key in keys), tuple(key.text for key in keys))


def _tap(patch: pytest.MonkeyPatch, heard: list[bytes]) -> None:
    """Record what connections bring: the bytes of HTTP on both ports, and those of the gate before it."""
    taken = BoundedHttpProtocol.data_received
    challenge, judge = ReceivingEnd.challenge, ReceivingEnd.judge

    def data_received(self: BoundedHttpProtocol, data: bytes) -> None:
        heard.append(bytes(data))
        taken(self, data)

    def challenged(self: ReceivingEnd, body: bytes, *rest: Any) -> Any:
        heard.append(bytes(body))
        return challenge(self, body, *rest)

    def judged(self: ReceivingEnd, body: bytes, *rest: Any) -> Any:
        heard.append(bytes(body))
        return judge(self, body, *rest)

    patch.setattr(BoundedHttpProtocol, "data_received", data_received)
    patch.setattr(ReceivingEnd, "challenge", challenged)
    patch.setattr(ReceivingEnd, "judge", judged)


def _walk(scene: CloudScene, running: RunningCloud) -> list[ApiKey]:
    """Sign up, upload, query, share, publish, revoke, delete; and look at the pages of it all."""
    alice, bob = scene.join("alice"), scene.join("bob")
    keys = [scene.key(alice, "alice"), scene.key(bob, "bob", Scope.QUERY)]
    with running.enclave() as enclave:
        with enclave.client(keys[0]) as owner, enclave.client(keys[1]) as friend, enclave.client(None) as stranger:
            owner.upload_model(MODEL, model_id="alice/scale")
            np.testing.assert_array_equal(owner.predict("alice/scale", INPUT).output[0].as_numpy(), OUTPUT)
            owner.set_visibility("alice/scale", "shared", shared_with=["bob"])
            friend.predict("alice/scale", INPUT)
            owner.set_visibility("alice/scale", "public")
            stranger.predict("alice/scale", INPUT)
        eventually(lambda: scene.plane.fleet.usage("alice").month_queries == 1)
        eventually(lambda: [one.listing.visibility for one in scene.plane.fleet.models("alice")] == ["public"])
        _look(scene, running, "alice")
        scene.plane.accounts.revoke_key(bob, "bob", keys[1].id)
        with enclave.client(keys[0]) as owner:
            owner.delete_model("alice/scale")
        eventually(lambda: scene.plane.fleet.models("alice") == ())
    return keys


def _look(scene: CloudScene, running: RunningCloud, name: str) -> None:
    """Sign in and open the pages of an account, as a browser does."""
    cookie = scene.sign_in(f"{name}@example.com")
    context = ssl.create_default_context(cafile=str(running.certificate))
    connection = http.client.HTTPSConnection(running.people.removeprefix("https://"), context=context)
    for path in ("/sign-in", "/", f"/accounts/{name}/models", f"/accounts/{name}/usage", "/api/v1/directory"):
        connection.request("GET", path, headers={"cookie": f"__Host-session={cookie}"})
        connection.getresponse().read()
    form = urlencode({"email": f"{name}@example.com", "password": PASSWORD})
    connection.request("POST", "/sign-in", form, {"content-type": "application/x-www-form-urlencoded"})
    connection.getresponse().read()
    connection.close()


def _rows(scene: CloudScene) -> bytes:
    """Every value of every table."""
    written = []
    with scene.plane.database.read() as connection:
        for table in tables.metadata.sorted_tables:
            for row in connection.execute(sa.select(table)):
                written += [value if isinstance(value, bytes) else str(value).encode() for value in row]
    return b"\n".join(written)


def _forms(secret: bytes) -> dict[str, bytes]:
    """How bytes may be written."""
    return {
        "bytes": secret,
        "hex": secret.hex().encode(),
        "capitals": secret.hex().upper().encode(),
        "base64": base64.b64encode(secret).rstrip(b"="),
        "base64url": base64.urlsafe_b64encode(secret).rstrip(b"="),
    }


def _needles() -> dict[str, bytes]:
    """Inputs, outputs and weights: whole, number by number, and as digests."""
    found: dict[str, bytes] = {}
    for name, array in {"input": INPUT, "output": OUTPUT, "weights": WEIGHTS}.items():
        whole = array.tobytes()
        secrets = {"whole": whole, "digest": hashlib.sha256(whole).digest()}
        found |= {
            f"{name}, {what}, {form}": text for what, one in secrets.items() for form, text in _forms(one).items()
        }
        for number in array.ravel():
            found[f"{name}, {number}, bytes"] = number.tobytes()
            for text in {repr(float(number)), str(number)}:
                found[f"{name}, {text}"] = text.encode()
    digest = hashlib.sha256(MODEL).digest()
    found |= {f"model's digest, {form}": text for form, text in _forms(digest).items()}
    # A name inside of the model is no name of an input or output.
    return found | {"model's file": MODEL[:48], "model's initializer": b"weights_of_alice"}


@pytest.mark.parametrize("what", ["input", "output", "weights", "model"])
def test_nothing_of_content_is_heard_or_written(journey: Journey, what: str) -> None:
    needles = {name: text for name, text in _needles().items() if name.startswith(what)}
    assert needles
    for name, text in needles.items():
        assert text not in journey.received, name
        assert text not in journey.written, name


def test_no_key_is_heard_or_written(journey: Journey) -> None:
    for text in journey.texts:
        assert text.encode() not in journey.received
        assert text.encode() not in journey.written
        assert text[15:].encode() not in journey.written


def test_the_tap_hears(journey: Journey) -> None:
    """What must be there, is: names, counts, digests of keys, evidence, and what people type."""
    for known in (b"POST /v1/authorisations", b"POST /v1/reports", b'"public"', b"GET /sign-in", b'"quote"'):
        assert known in journey.received, known
    assert urlencode({"password": PASSWORD}).encode() in journey.received
    for digest in journey.digests:
        assert digest.encode() in journey.received
        assert digest.encode() in journey.written
    for name in (b"alice", b"scale", b"FP32"):
        assert name in journey.received
    assert b"alice@example.com" in journey.written
    assert PASSWORD.encode() not in journey.written
