"""The pages of models, and the overview: what the enclaves report is what they show."""

from __future__ import annotations

import re
from typing import Any

from blindai.cloud.console.phrases import shape, size
from blindai.wire.cloud import ModelListing, Scope, Visibility
from blindai.wire.metadata import TensorMetadata
from cloud_scene import CloudScene
from console_world import Person

ENDPOINT = "https://enclave.test:9443"


def listing(name: str, version: int = 1, **changed: Any) -> ModelListing:
    """A model as its enclave reports it."""
    details: dict[str, Any] = {
        "bytes": 46_832_110,
        "state": "READY",
        "inputs": (TensorMetadata("input", "FP32", (-1, 3, 224, 224)),),
        "outputs": (TensorMetadata("logits", "FP32", (-1, 1000)),),
        "queries": 1234,
        "unused_ms": 45_000_000,
    }
    return ModelListing(namespace="alice", name=name, version=version, **details | changed)


def test_no_model_yet_and_how_to_upload_one(alice: Person) -> None:
    answer = alice.get("/accounts/alice/models")
    assert "No model yet" in answer.words
    assert "blindai models upload model.onnx --id alice/resnet18" in answer.words
    assert "blindai keys create laptop --account alice --scope query --scope upload --store" in answer.words
    # No enclave has said where it is.
    assert 'Connection("https://..."' in answer.words


def test_each_version_with_all_that_is_known_of_it(alice: Person, small_scene: CloudScene) -> None:
    enclave = small_scene.played(ENDPOINT)
    shared = listing("net", 1, visibility=Visibility.SHARED, shared_with=("bob", "lab"), state="UNAVAILABLE")
    enclave.report(first=True, models=(listing("net", 2), shared, listing("open", visibility=Visibility.PUBLIC)))
    words = alice.get("/accounts/alice/models").words
    for part in (
        "alice/net private Version 2 ready",
        "Inputs input FP32 [any, 3, 224, 224] Outputs logits FP32 [any, 1000] Size 46.8 MB Queries 1,234",
        "Last use 12 h ago",
        f"Endpoint {ENDPOINT}",
        "Version 1 unavailable",
        "Who may query it: alice alone",
        "blindai models share alice/net ACCOUNT blindai models publish alice/net",
        "alice/open public",
        "Who may query it: everybody",
        "blindai models share alice/open ACCOUNT blindai models private alice/open",
        "Versions 3 of",
    ):
        assert part in words, part
    enclave.report(models=(listing("net", 2, visibility=Visibility.SHARED, shared_with=("bob", "lab")),))
    words = alice.get("/accounts/alice/models").words
    assert "Who may query it: bob, lab, besides alice" in words
    assert "blindai models share alice/net bob lab ACCOUNT" in words


def test_what_a_model_calls_its_tensors_is_text(alice: Person, small_scene: CloudScene) -> None:
    evil = TensorMetadata("<img src=x onerror=alert(1)>\u202e", "FP32", (1,))
    small_scene.played(ENDPOINT).report(first=True, models=(listing("net", inputs=(evil,)),))
    text = alice.get("/accounts/alice/models").text
    assert "<img" not in text
    assert "\u202e" not in text
    assert "onerror=alert(1)&gt;?" in text


def test_models_of_others_are_not_shown(alice: Person, bob: Person, small_scene: CloudScene) -> None:
    small_scene.played(ENDPOINT).report(first=True, models=(listing("secret-name", visibility=Visibility.PUBLIC),))
    assert "secret-name" in alice.get("/accounts/alice/models").text
    assert "secret-name" not in bob.get("/accounts/bob/models").text
    refused, unknown = bob.get("/accounts/alice/models"), bob.get("/accounts/nowhere/models")
    assert (refused.status, refused.words) == (404, unknown.words.replace("nowhere", "alice"))


def test_the_overview_says_what_to_do_next_and_stops_when_it_is_done(alice: Person, small_scene: CloudScene) -> None:
    assert alice.get("/").header("location") == "/accounts/alice"
    begin = alice.get("/accounts/alice").words
    assert "What to do next Make a key" in begin
    assert "No enclave is there at this moment" in begin

    enclave = small_scene.played(ENDPOINT)
    small_scene.key(alice.id, "alice", Scope.QUERY)
    with_key = alice.get("/accounts/alice").words
    assert "You have 1 key." in with_key
    assert f'client = blindai.Connection("{ENDPOINT}", api_key=key, simulation=True)' in with_key
    assert "SIMULATED: protects nothing" in with_key
    assert "None yet." in with_key

    enclave.report(first=True, models=(listing("net"), listing("other", state="UNAVAILABLE"), listing("third")))
    done = alice.get("/accounts/alice").words
    assert "What to do next" not in done
    assert "2 ready 1 unavailable" in done
    assert 'client.predict("alice/net", inputs)' in done


def test_sizes_and_shapes_are_told_in_few_digits() -> None:
    told = {0: "0 bytes", 999: "999 bytes", 1000: "1.0 kB", 10_068: "10.1 kB", 99_960: "100.0 kB", 999_999: "1.0 MB"}
    assert {count: size(count) for count in told} == told
    assert size(46_832_110) == "46.8 MB"
    assert size(250_000_000) == "250 MB"
    assert re.fullmatch(r"[\d,]+ PB", size(10**18))
    assert (shape(()), shape((-1, 8, 8))) == ("[]", "[any, 8, 8]")
