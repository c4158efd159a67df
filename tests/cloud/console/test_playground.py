"""The playground's page: its policy, and which models it offers. What its script does, the browser's tests see."""

from __future__ import annotations

import pytest

from blindai.cloud.console.playground import choices, takes_digits
from blindai.web.pages import SECURITY_HEADERS
from blindai.wire.cloud import ModelListing
from blindai.wire.metadata import TensorMetadata
from cloud_scene import URL, CloudScene
from console_world import Person

PAGE = "/accounts/alice/playground"
SCORES = TensorMetadata("scores", "FP32", (-1, 10))


def model(name: str, image: TensorMetadata, *outputs: TensorMetadata) -> ModelListing:
    return ModelListing(namespace="alice", name=name, version=1, inputs=(image,), outputs=outputs or (SCORES,))


def image(*shape: int, datatype: str = "FP32") -> TensorMetadata:
    return TensorMetadata("image", datatype, shape)


@pytest.mark.parametrize("shape", [(-1, 64), (1, 64), (-1, 8, 8), (-1, 1, 8, 8)])
def test_models_that_take_a_drawing(shape: tuple[int, ...]) -> None:
    assert takes_digits(model("a", image(*shape)))


@pytest.mark.parametrize(
    "listed",
    [
        model("a", image(64)),
        model("a", image(2, 64)),
        model("a", image(-1, 784)),
        model("a", image(-1, 64, datatype="INT64")),
        model("a", image(-1, 64), TensorMetadata("scores", "FP32", (-1, 11))),
        model("a", image(-1, 64), TensorMetadata("label", "INT64", (-1,))),
        ModelListing(namespace="alice", name="a", version=1, inputs=(image(-1, 64),) * 2, outputs=(SCORES,)),
        ModelListing(namespace="alice", name="a", version=1),
    ],
)
def test_models_that_do_not(listed: ModelListing) -> None:
    assert not takes_digits(listed)


def test_those_that_fit_are_offered_first() -> None:
    listed = [model("zeros", image(-1, 64)), model("net", image(-1, 3)), model("digits", image(-1, 8, 8))]
    assert choices(listed) == ("alice/digits", "alice/zeros", "alice/net")
    assert choices([]) == ()


def test_its_script_may_connect_to_the_visitors_machine_and_nowhere_else(alice: Person) -> None:
    usual = SECURITY_HEADERS["content-security-policy"]
    answer = alice.get(PAGE)
    policy = answer.header("content-security-policy")
    assert policy == usual.replace("connect-src 'self'", "connect-src http://127.0.0.1:*") != usual
    for other in ("", "/keys", "/models"):
        assert alice.get(f"/accounts/alice{other}").header("content-security-policy") == usual
    assert alice.get("/accounts/nowhere/playground").header("content-security-policy") == usual


def test_the_page_says_what_it_is_and_how_to_start_the_proxy(alice: Person, small_scene: CloudScene) -> None:
    small_scene.played("https://enclave.test:9443").report(first=True, models=(model("digits", image(-1, 64)),))
    answer = alice.get(PAGE)
    assert "A demonstration." in answer.words
    assert f"blindai proxy https://enclave.test:9443 --simulation --allow-origin {URL}" in answer.words
    assert 'value="alice/digits"' in answer.text
    chosen = alice.get(f"{PAGE}?model=%22%3E%3Cscript%3E")
    assert "<script>" not in chosen.text.replace('<script src="', "")
    assert 'value="&#34;&gt;&lt;script&gt;"' in chosen.text
