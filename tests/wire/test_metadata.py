from __future__ import annotations

import msgspec
import pytest

from blindai.wire.datatype import DATATYPES
from blindai.wire.metadata import (
    VARIABLE,
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
    TensorMetadata,
)

X = TensorMetadata("x", "FP32", (VARIABLE, 3))

# Member names are those of the specifications: a client written for them reads these.
MESSAGES = [
    (
        ServerMetadata("blindai", "1.0"),
        b'{"name":"blindai","version":"1.0","extensions":["binary_tensor_data","model_repository","statistics"]}',
    ),
    (ServerLive(live=True), b'{"live":true}'),
    (ServerReady(ready=False), b'{"ready":false}'),
    (ModelReady("a/b", ready=True), b'{"name":"a/b","ready":true}'),
    (
        ModelMetadata("a/b", ("1", "2"), "onnxruntime_onnx", (X,), ()),
        (
            b'{"name":"a/b","versions":["1","2"],"platform":"onnxruntime_onnx",'
            b'"inputs":[{"name":"x","datatype":"FP32","shape":[-1,3]}],"outputs":[]}'
        ),
    ),
    (
        ModelUploaded("a/b", "1", "00", 9, "onnxruntime_onnx", (), ()),
        b'{"name":"a/b","version":"1","sha256":"00","size":9,"platform":"onnxruntime_onnx","inputs":[],"outputs":[]}',
    ),
    (RepositoryIndexRequest(ready=True), b'{"ready":true}'),
    (
        RepositoryModel("a/b", "1", "READY"),
        b'{"name":"a/b","version":"1","state":"READY","reason":""}',
    ),
    (
        StatisticsResponse((ModelStatistics("a/b", "1"),)),
        (
            b'{"model_stats":[{"name":"a/b","version":"1","last_inference":0,"inference_count":0,"execution_count":0,'
            b'"inference_stats":{"success":{"count":0,"ns":0},"fail":{"count":0,"ns":0},"queue":{"count":0,"ns":0},'
            b'"compute_input":{"count":0,"ns":0},"compute_infer":{"count":0,"ns":0},"compute_output":{"count":0,"ns":0},'
            b'"cache_hit":{"count":0,"ns":0}},"batch_stats":[],"memory_usage":[],"state":"","resident":false,'
            b'"engine":"","threads":0,"max_batch":1}]}'
        ),
    ),
]


@pytest.mark.parametrize(("message", "encoded"), MESSAGES)
def test_a_message_is_written_and_read_with_the_members_of_the_protocol(
    message: msgspec.Struct, encoded: bytes
) -> None:
    assert msgspec.json.encode(message) == encoded
    assert msgspec.json.decode(encoded, type=type(message)) == message


def test_what_a_newer_server_adds_is_ignored() -> None:
    assert msgspec.json.decode(b'{"live":true,"since":1}', type=ServerLive) == ServerLive(live=True)


def test_an_index_may_be_asked_for_without_a_word() -> None:
    assert msgspec.json.decode(b"{}", type=RepositoryIndexRequest) == RepositoryIndexRequest(ready=False)


def test_a_tensor_is_shown_in_one_line() -> None:
    assert str(X) == "'x' FP32 [-1, 3]"
    assert X.datatype in DATATYPES
