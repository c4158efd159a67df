"""The descriptions for machines hold: schemathesis calls every operation of the control plane and of the enclave with
data that the description allows and with data that it forbids, with and without a sign-in, and checks every answer.

All of its checks are made. These operations may answer 400 to data that the description allows:

- `POST /device/tokens` of the control plane: a code may be unknown, and RFC 8628 (section 3.5) wants 400 for that;
- `POST /namespaces/{namespace}/keys`: to JSON Schema 30.0 is an integer; to us it is none;
- uploads of the enclave: that bytes are an ONNX file, and those of the digest that is sent along, is nothing a schema
  can say;
- inference: nor that the numbers of a tensor fill its shape, or that bytes are what the JSON before them announces.

Where somebody is signed in, `DELETE /token` is left out: it gives back the token of the run. It is called in the run
without one, and `tests/cloud/api` tries what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import onnx
import pytest

from blindai import Connection
from blindai.attestation.policy import Policy
from blindai.cloud.allowances import Allowances
from blindai.cloud.api import ADDRESSES, rates
from blindai.enclave.app import ROUTES
from blindai.wire.cloud_api import PREFIX
from cloud_scene import CloudScene, RunningCloud
from enclave_server import node_model
from joined_enclave import joined_enclave
from proxy_process import ProxyProcess
from running_proxy import RunningProxy
from schema_examination import BEYOND_SCHEMA, examine

DESCRIPTION = f"{PREFIX}/openapi.json"

REFUSING: list[dict[str, Any]] = [
    {"include-name": "POST /device/tokens", "checks": BEYOND_SCHEMA},
    {"include-name": "POST /namespaces/{namespace}/keys", "checks": BEYOND_SCHEMA},
]
GIVE_BACK: dict[str, Any] = {"include-name": "DELETE /token", "enabled": False}

UPLOAD = "PUT /v2/repository/models/{namespace}/{name}"
INFER = "POST /v2/models/{namespace}/{name}/infer"
INFER_VERSION = "POST /v2/models/{namespace}/{name}/versions/{version}/infer"
REFUSING_MODELS: list[dict[str, Any]] = [
    {"include-name": one, "checks": BEYOND_SCHEMA} for one in (UPLOAD, INFER, INFER_VERSION)
]

# All but `max_response_time`, which has no default.
CHECKS = {
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ensure_resource_availability",
    "ignored_auth",
    "object_level_authorization",
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudScene]:
    with CloudScene(tmp_path_factory.mktemp("cloud")) as scene:
        yield scene


@pytest.fixture(scope="module")
def cloud(scene: CloudScene) -> Iterator[RunningCloud]:
    with pytest.MonkeyPatch.context() as patch:
        # So many requests within seconds are taken of nobody else.
        patch.setattr(rates, "PER_MINUTE", 10**6)
        with scene.served() as running:
            yield running


def operations() -> set[str]:
    """All of the control plane but the description itself, which is fetched to begin with."""
    return {f"{one.method} {one.path}" for one in ADDRESSES} - {"GET /openapi.json"}


def test_the_control_plane_with_nobody_signed_in(cloud: RunningCloud, figures: Callable[[str], None]) -> None:
    found = examine(
        cloud.people + DESCRIPTION, examples=5, operations=REFUSING, **{"tls-verify": str(cloud.certificate)}
    )
    figures(f"the control plane, nobody signed in: {found.line}")
    assert found.failures == {}
    assert found.operations == operations()
    assert found.checks.keys() == CHECKS
    assert found.statuses[200] > 0
    assert found.statuses[401] > 0


def test_the_control_plane_with_a_member_signed_in(
    cloud: RunningCloud, scene: CloudScene, figures: Callable[[str], None]
) -> None:
    token = scene.access_token(scene.join("acme"))
    found = examine(
        cloud.people + DESCRIPTION,
        examples=5,
        operations=[*REFUSING, GIVE_BACK],
        headers={"Authorization": f"Bearer {token}"},
        parameters={"path.namespace": "acme"},
        **{"tls-verify": str(cloud.certificate)},
    )
    figures(f"the control plane, an admin signed in: {found.line}")
    assert found.failures == {}
    assert found.operations == operations() - {"DELETE /token"}
    assert found.checks.keys() == CHECKS
    assert found.statuses[201] > 0


def test_an_enclave_of_the_cloud_with_a_key(
    cloud: RunningCloud, scene: CloudScene, figures: Callable[[str], None]
) -> None:
    user = scene.join("tenant")
    # So many requests within seconds are taken of nobody else.
    Allowances(scene.plane.database).change("tenant", {"requests_per_minute": 10**6, "requests_per_month": None})
    policy = Policy.parse(scene.platform.manifest, "the test")
    with (
        joined_enclave(cloud, anonymous_per_minute=10**6) as enclave,
        RunningProxy(f"https://127.0.0.1:{enclave.port}", policy) as proxy,
    ):
        found = examine(
            f"http://127.0.0.1:{proxy.port}/openapi.json",
            examples=2,
            operations=REFUSING_MODELS,
            headers={"Authorization": f"Bearer {scene.key(user, 'tenant').text}"},
            parameters={"path.namespace": "tenant"},
        )
    figures(f"an enclave of a cloud, with a key: {found.line}")
    assert found.failures == {}
    assert found.operations == {f"{method} {path}" for method, path, _ in ROUTES} - {"GET /openapi.json"}
    assert found.checks.keys() == CHECKS
    assert found.statuses[200] > 0
    assert found.statuses[401] > 0


def test_the_enclave_behind_its_gate(proxy: ProxyProcess, figures: Callable[[str], None]) -> None:
    """Through `blindai proxy`, which opens the gate: on every connection another request than that is a 403."""
    found = examine(f"http://127.0.0.1:{proxy.port}/openapi.json", examples=2, operations=REFUSING_MODELS)
    figures(f"the enclave, any names: {found.line}")
    assert found.failures == {}
    assert found.operations == {f"{method} {path}" for method, path, _ in ROUTES} - {"GET /openapi.json"}
    # Nobody needs a key where there is no cloud.
    assert found.checks.keys() == CHECKS - {"ignored_auth"}


def test_the_enclave_about_a_model_that_it_has(
    connection: Connection, proxy: ProxyProcess, figures: Callable[[str], None]
) -> None:
    connection.upload_model(node_model(onnx.helper.make_node("Identity", ["x"], ["y"])), model_id="acme/echo")
    found = examine(
        f"http://127.0.0.1:{proxy.port}/openapi.json",
        examples=4,
        operations=REFUSING_MODELS,
        parameters={"path.namespace": "acme", "path.name": "echo", "path.version": "1"},
        phases={"coverage": {"enabled": False}, "stateful": {"enabled": False}},
    )
    figures(f"the enclave, a model that it has: {found.line}")
    assert found.failures == {}
    assert found.statuses[200] > 0
