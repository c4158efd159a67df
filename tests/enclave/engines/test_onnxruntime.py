from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as native

from blindai.enclave.engine import TensorSpec
from blindai.enclave.engines import onnxruntime as engines
from blindai.enclave.engines.onnxruntime import MAX_MESSAGE, OnnxRuntimeEngine, OnnxRuntimeSession
from blindai.errors import BlindAIError, InvalidInput, InvalidModel, QuotaExceeded
from blindai.wire.datatype import DATATYPES
from blindai.wire.tensor import Buffer, Tensor, from_binary
from onnx_models import external, identity, model, value
from tensor_strategies import assert_same, tensors

ADD = helper.make_node("Add", ["x", "w"], ["y"])
WEIGHTS = np.arange(4, dtype=np.float32)
X = Tensor("x", "FP32", np.ones(4, np.float32))


def load(data: bytes, files: dict[str, Buffer] | None = None) -> OnnxRuntimeSession:
    return OnnxRuntimeEngine().load(data, files or {})


def tensor(name: str, data: Any, datatype: str = "FP32") -> Tensor:
    return Tensor(name, datatype, np.array(data, DATATYPES[datatype].dtype))


def run(session: OnnxRuntimeSession, *inputs: Tensor, outputs: tuple[str, ...] = ()) -> list[Tensor]:
    return session.run({one.name: one for one in inputs}, outputs)


def refused(kind: type[BlindAIError], code: str, attempt: Any) -> BlindAIError:
    with pytest.raises(kind) as caught:
        attempt()
    assert caught.value.code == code
    assert len(caught.value.message) < MAX_MESSAGE + 100
    return caught.value


# Every datatype


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_a_tensor_of_every_datatype_shape_and_value_goes_through(datatype: str) -> None:
    session = load(identity(datatype, None))

    @settings(max_examples=30)
    @given(data=st.data())
    def goes_through(data: st.DataObject) -> None:
        # ONNX strings are text.
        sent = data.draw(tensors(json=datatype == "BYTES", datatype=datatype))
        [got] = run(session, Tensor("x", datatype, sent.data))
        assert_same(got, Tensor("y", datatype, sent.data))

    goes_through()


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_specs_name_the_datatype(datatype: str) -> None:
    session = load(identity(datatype, ("batch", 3)))
    assert session.inputs == (TensorSpec("x", datatype, (-1, 3)),)
    assert session.outputs == (TensorSpec("y", datatype, (-1, 3)),)


def test_a_scalar_is_told_from_an_unknown_rank() -> None:
    assert load(identity("FP32", ())).inputs == (TensorSpec("x", "FP32", ()),)
    assert load(identity("FP32", None)).inputs == (TensorSpec("x", "FP32", (-1,), ranked=False),)


def test_bfloat16_travels_beside_text_and_numbers() -> None:
    text = numpy_helper.from_array(np.array([b"a", "é".encode()], object), "s")
    session = load(
        model(
            [helper.make_node("Identity", [name], [name * 2]) for name in "bfs"],
            inputs=[value("b", "BF16", (2,)), value("f", "FP32", (2,))],
            outputs=[value("bb", "BF16", (2,)), value("ff", "FP32", (2,)), value("ss", "BYTES", (2,))],
            initializers=[text],
        )
    )
    sent = [tensor("b", [1, 0x7FC0], "BF16"), tensor("f", [1, np.nan])]
    numbers, words, bits = run(session, *sent, outputs=("ff", "ss", "bb"))
    assert_same(numbers, Tensor("ff", "FP32", sent[1].data))
    assert_same(words, tensor("ss", [b"a", "é".encode()], "BYTES"))
    assert_same(bits, Tensor("bb", "BF16", sent[0].data))
    [words] = run(session, *sent, outputs=("ss",))
    assert words.data.tolist() == [b"a", "é".encode()]


def test_text_in_and_bfloat16_out_is_refused_at_load() -> None:
    nodes = [helper.make_node("Identity", [name], [name * 2]) for name in "bs"]
    ends = [[value("b" * n, "BF16", (2,)), value("s" * n, "BYTES", (2,))] for n in (1, 2)]
    refused(InvalidModel, "model.unsupported_type", lambda: load(model(nodes, inputs=ends[0], outputs=ends[1])))


@pytest.mark.parametrize("datatype", ["FP32", "BF16", "INT64"])
def test_a_tensor_that_begins_anywhere_in_a_body_is_taken(datatype: str) -> None:
    session = load(identity(datatype, None))
    size = DATATYPES[datatype].size
    body = bytes(range(3 + 6 * size))
    sent = from_binary("x", datatype, (2, 3), memoryview(body)[3:])
    assert not sent.data.flags.aligned
    [got] = run(session, sent)
    assert got.data.tobytes() == body[3:]


@pytest.mark.parametrize("datatype", ["FP32", "BF16"])
def test_an_array_that_is_not_contiguous_is_taken(datatype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(DATATYPES[datatype].dtype).T
    [got] = run(load(identity(datatype, None)), Tensor("x", datatype, array))
    assert np.array_equal(got.data, array)


# Inputs and outputs


def test_a_model_without_inputs_answers() -> None:
    constant = helper.make_node("Constant", [], ["y"], value_float=2.0)
    [got] = run(load(model([constant], inputs=[], outputs=[value("y", shape=())])))
    assert got.data.tolist() == 2.0


def test_outputs_come_in_the_order_asked_for() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Abs", ["x"], ["a"])]
    session = load(model(nodes, outputs=[value("n"), value("a")]))
    assert [got.name for got in run(session, X)] == ["n", "a"]
    assert [got.name for got in run(session, X, outputs=("a", "n"))] == ["a", "n"]
    assert [got.name for got in run(session, X, outputs=("a",))] == ["a"]


def test_an_input_with_a_value_of_its_own_is_optional() -> None:
    both = [value("x"), value("w")]
    session = load(model([ADD], inputs=both, initializers=[numpy_helper.from_array(WEIGHTS, "w")]))
    assert [spec.name for spec in session.inputs] == ["x"]
    assert run(session, X)[0].data.tolist() == [1, 2, 3, 4]
    assert run(session, X, tensor("w", [5, 5, 5, 5]))[0].data.tolist() == [6, 6, 6, 6]
    refused(InvalidInput, "input.shape", lambda: run(session, X, tensor("w", [5])))


def test_an_input_with_a_value_of_its_own_is_fixed_in_old_files() -> None:
    both = [value("x"), value("w")]
    weights = [numpy_helper.from_array(WEIGHTS, "w")]
    session = load(model([ADD], inputs=both, initializers=weights, ir_version=3, opset=8))
    assert run(session, X)[0].data.tolist() == [1, 2, 3, 4]
    refused(InvalidInput, "input.name", lambda: run(session, X, tensor("w", [5, 5, 5, 5])))


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ([], "input.missing"),
        ([tensor("q", [1, 1, 1, 1])], "input.name"),
        ([tensor("x", [1, 1, 1, 1], "FP64")], "input.datatype"),
        ([tensor("x", [1, 1, 1, 1], "INT32")], "input.datatype"),
        ([tensor("x", [1, 1, 1])], "input.shape"),
        ([tensor("x", [[1, 1, 1, 1]])], "input.shape"),
        ([tensor("x", 1)], "input.shape"),
    ],
)
def test_inputs_that_the_model_does_not_take_are_refused(inputs: list[Tensor], code: str) -> None:
    refused(InvalidInput, code, lambda: run(load(identity("FP32", (4,))), *inputs))


def test_an_output_that_the_model_does_not_have_is_refused() -> None:
    refused(InvalidInput, "input.name", lambda: run(load(identity("FP32", (4,))), X, outputs=("z",)))


def test_bytes_that_are_no_text_are_refused() -> None:
    error = refused(
        InvalidInput, "input.bytes", lambda: run(load(identity("BYTES")), tensor("x", [b"a", b"\xff"], "BYTES"))
    )
    assert "element 1" in error.message


def test_a_tensor_whose_array_is_of_another_dtype_is_refused() -> None:
    wrong = Tensor("x", "FP32", np.zeros(4))
    refused(InvalidInput, "input.run", lambda: run(load(identity("FP32", (4,))), wrong))


# What ONNX Runtime itself refuses at run time


def reshape() -> OnnxRuntimeSession:
    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    return load(model([node], inputs=[value("x"), value("s", "INT64", (2,))], outputs=[value("y", shape=("a", "b"))]))


def test_values_that_the_model_cannot_work_on_are_refused() -> None:
    session = reshape()
    error = refused(InvalidInput, "input.run", lambda: run(session, X, tensor("s", [3, 3], "INT64")))
    assert "requested shape:{3,3}" in error.message
    assert "/" not in error.message
    assert ".h" not in error.message
    assert "ONNXRuntimeError" not in error.message
    assert run(session, X, tensor("s", [2, 2], "INT64"))[0].shape == (2, 2)


def test_an_index_out_of_range_is_refused() -> None:
    node = helper.make_node("Gather", ["x", "i"], ["y"])
    session = load(model([node], inputs=[value("x"), value("i", "INT64", (1,))], outputs=[value("y", shape=(1,))]))
    error = refused(InvalidInput, "input.run", lambda: run(session, X, tensor("i", [9], "INT64")))
    assert error.message.startswith("the model cannot run on this input: Gather: indices element out of data bounds")


def test_more_memory_than_there_is_is_refused() -> None:
    node = helper.make_node("ConstantOfShape", ["x"], ["y"])
    session = load(model([node], inputs=[value("x", "INT64", (2,))], outputs=[value("y", shape=("a", "b"))]))
    huge = tensor("x", [2**24, 2**24], "INT64")
    refused(QuotaExceeded, "quota.memory", lambda: run(session, huge))
    assert run(session, tensor("x", [1, 2], "INT64"))[0].shape == (1, 2)


def test_text_that_is_not_utf8_cannot_be_answered() -> None:
    text = numpy_helper.from_array(np.array([b"\xff"], object), "s")
    node = helper.make_node("Identity", ["s"], ["y"])
    session = load(model([node], initializers=[text], outputs=[value("y", "BYTES", (1,))]))
    refused(InvalidModel, "model.run", lambda: run(session, X))


@pytest.mark.parametrize(
    ("raised", "kind", "code"),
    [
        (MemoryError(), QuotaExceeded, "quota.memory"),
        (native.RuntimeException("std::bad_alloc"), QuotaExceeded, "quota.memory"),
        (native.NotImplemented("no kernel"), InvalidModel, "model.run"),
        (native.EPFail("broken"), InvalidModel, "model.run"),
        (RuntimeError("unknown"), InvalidInput, "input.run"),
    ],
)
def test_every_way_to_fail_has_a_code(
    raised: Exception, kind: type[BlindAIError], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = load(identity("FP32", (4,)))

    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(session, "_native", SimpleNamespace(run=fail))
    refused(kind, code, lambda: run(session, X))


def test_a_run_without_end_is_stopped_and_the_session_lives_on() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v"], ["v2"])],
        "body",
        [value("i", "INT64", ()), value("c", "BOOL", ()), value("v")],
        [value("c2", "BOOL", ()), value("v2")],
    )
    node = helper.make_node("Loop", ["", "again", "x"], ["y"], body=body)
    session = load(model([node], inputs=[value("x"), value("again", "BOOL", ())]))
    forever = {"x": X, "again": tensor("again", True, "BOOL")}
    cancellation = session.cancellation()
    timer = threading.Timer(0.05, cancellation.cancel)
    timer.start()
    refused(QuotaExceeded, "quota.run_time", lambda: session.run(forever, cancellation=cancellation))
    timer.join()
    once = forever | {"again": tensor("again", False, "BOOL")}
    assert session.run(once, cancellation=session.cancellation())[0].data.tolist() == [1, 1, 1, 1]


# External data


def test_external_data_are_read_from_memory() -> None:
    weights = [external("w", "sub/w.data", offset=16, length=16)]
    files: dict[str, Buffer] = {"sub/w.data": bytes(16) + WEIGHTS.tobytes(), "more": b"unused"}
    session = load(model([ADD], initializers=weights), files)
    files.clear()
    assert run(session, X)[0].data.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_model_and_data_may_be_any_buffer(kind: Any) -> None:
    data = model([ADD], initializers=[external("w", "./w.data")])
    session = OnnxRuntimeEngine().load(kind(data), {"w.data": kind(WEIGHTS.tobytes())})
    assert run(session, X)[0].data.tolist() == [1, 2, 3, 4]
    assert session.memory == len(data) + WEIGHTS.nbytes


def test_missing_external_data_are_named_and_no_file_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.data").write_bytes(WEIGHTS.tobytes())
    monkeypatch.chdir(tmp_path)
    data = model([ADD], initializers=[external("w", "w.data")])
    error = refused(InvalidModel, "model.external_data_missing", lambda: load(data))
    assert "'w.data'" in error.message


def test_external_data_in_a_subgraph_never_reach_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # ONNX Runtime 1.31 reads these from the file system even when it was given the files in memory.
    (tmp_path / "w.data").write_bytes(WEIGHTS.tobytes())
    monkeypatch.chdir(tmp_path)
    then = helper.make_graph([ADD], "then", [], [value("y")], [external("w", "w.data")])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "else", [], [value("y")])
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    data = model([node], inputs=[value("x"), value("c", "BOOL", ())])
    refused(InvalidModel, "model.external_data_nested", lambda: load(data, {"w.data": bytes(16)}))


def test_external_data_at_an_address_in_memory_are_refused() -> None:
    secret = ctypes.create_string_buffer(WEIGHTS.tobytes())
    weights = [external("w", "*/_ORT_MEM_ADDR_/*", offset=ctypes.addressof(secret), length=16)]
    refused(InvalidModel, "model.external_data_path", lambda: load(model([ADD], initializers=weights)))


@pytest.mark.parametrize(
    "entries", [{"offset": 8}, {"offset": -8}, {"offset": 2**62}, {"length": 8}, {"length": 2**62}, {"offset": 16}]
)
def test_external_data_beyond_their_file_are_refused(entries: dict[str, int]) -> None:
    data = model([ADD], initializers=[external("w", "w.data", **entries)])
    refused(InvalidModel, "model.invalid", lambda: load(data, {"w.data": WEIGHTS.tobytes()}))


# Bad models


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "model.empty"),
        (b"\x80\x04\x95", "model.not_onnx"),
        (identity()[:-20], "model.truncated"),
        (identity(TensorProto.FLOAT8E5M2), "model.unsupported_type"),
        (model([helper.make_node("F", ["x"], ["y"], domain="evil")], domains=["evil"]), "model.op_domain"),
        (model([helper.make_node("NoSuchOperator", ["x"], ["y"])]), "model.invalid"),
        (model([helper.make_node("Relu", ["unknown"], ["y"])]), "model.invalid"),
        (model([helper.make_node("Relu", ["x"], ["y"])], opset=99), "model.invalid"),
        (model([helper.make_node("Relu", ["x"], ["y"])], ir_version=99), "model.invalid"),
        (model([ADD], initializers=[TensorProto(name="w", dims=[2**40], data_type=1)]), "model.invalid"),
        (
            model(
                [helper.make_node("BitwiseNot", ["x"], ["y"])],
                inputs=[value("x", "UINT64")],
                outputs=[value("y", "INT8")],
            ),
            "model.invalid",
        ),
    ],
)
def test_a_bad_model_is_refused(data: bytes, code: str) -> None:
    error = refused(InvalidModel, code, lambda: load(data))
    for internal in ("onnxruntime_src", ".cc:", ".h:", "[ONNXRuntimeError]", str(Path.cwd()), "\n"):
        assert internal not in error.message


def test_an_operator_without_an_implementation_is_refused() -> None:
    data = model(
        [helper.make_node("Det", ["x"], ["y"])],
        inputs=[value("x", "FP64", (2, 2))],
        outputs=[value("y", "FP64", ())],
    )
    refused(InvalidModel, "model.unsupported_operator", lambda: load(data))


def test_an_output_whose_type_only_the_engine_finds_out_is_refused() -> None:
    # The file leaves the type of y open.
    made = onnx.load_model_from_string(model([helper.make_node("SequenceConstruct", ["x"], ["y"])]))
    made.graph.output[0].ClearField("type")
    error = refused(InvalidModel, "model.unsupported_type", lambda: load(made.SerializeToString()))
    assert "output 'y' is a sequence" in error.message


@pytest.mark.parametrize(
    ("native_type", "kind"),
    [
        ("map(int64,tensor(float))", "a map"),
        ("optional(tensor(float))", "an optional value"),
        ("tensor(float8e5m2)", "a tensor(float8e5m2)"),
    ],
)
def test_a_type_of_the_engine_is_put_into_words(native_type: str, kind: str) -> None:
    assert engines._kind(native_type) == kind


def test_zipmap_is_refused_with_the_way_to_convert_without_it() -> None:
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3])
    made = model(
        [node],
        inputs=[value("x", shape=(1, 4))],
        outputs=[
            helper.make_value_info(
                "probabilities",
                helper.make_sequence_type_proto(
                    helper.make_map_type_proto(
                        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None)
                    )
                ),
            )
        ],
        domains=["ai.onnx.ml"],
    )
    error = refused(InvalidModel, "model.unsupported_type", lambda: load(made))
    assert "'probabilities'" in error.message
    assert "zipmap" in error.hint


@pytest.mark.parametrize(
    ("raised", "code"),
    [(MemoryError(), "quota.memory"), (native.RuntimeException("Failed to allocate memory"), "quota.memory")],
)
def test_a_model_too_large_to_load_is_refused(raised: Exception, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    refused(QuotaExceeded, code, lambda: load(identity()))


def test_a_flipped_bit_anywhere_loads_or_is_refused() -> None:
    whole = model([ADD], initializers=[numpy_helper.from_array(WEIGHTS, "w")])
    refusals = 0
    for index in range(len(whole)):
        flipped = bytearray(whole)
        flipped[index] ^= 1 << index % 8
        try:
            load(bytes(flipped))
        except InvalidModel as error:
            refusals += 1
            code = error.code
            assert code.startswith("model."), index
    assert refusals > 20


# The host


def test_neither_the_environment_nor_the_model_chooses_settings() -> None:
    # With this variable in the environment ONNX Runtime takes session options from the model's metadata.
    made = onnx.load_model_from_string(identity())
    made.metadata_props.add(key="ort_config", value='{"session_options": {"intra_op_num_threads": 3}}')
    program = """
import sys
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
session = OnnxRuntimeEngine().load(sys.stdin.buffer.read(), {})
print(session._session.get_session_options().intra_op_num_threads)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=made.SerializeToString(),
        env=os.environ | {"ORT_LOAD_CONFIG_FROM_MODEL": "1"},
        capture_output=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"1\n", b"", 0)


def test_one_thread_runs_a_model_by_default() -> None:
    options = load(identity())._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    options = OnnxRuntimeEngine(threads=2).load(identity(), {})._session.get_session_options()
    assert options.intra_op_num_threads == 2


def test_messages_lose_source_lines_paths_and_line_breaks() -> None:
    text = (
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Foo node. Name:'f' "
        "Status Message: /onnxruntime_src/onnxruntime/core/a.cc:36 void ns::F(const std::map<int, G()>&)::H(int) const "
        "wrong:\n x\x1b[31m "
        'graph.cc:44 Inject of "/home/user/w.data" ' + "y" * 1000
    )
    cleaned = engines._clean(RuntimeError(text))
    assert cleaned.startswith('Foo f: wrong: x [31m of "..." yyy')
    assert len(cleaned) == MAX_MESSAGE + 3


def test_who_cancels_late_stops_no_other_run() -> None:
    session = load(identity("FP32", (4,)))
    first = session.cancellation()
    session.run({"x": X}, cancellation=first)
    second = session.cancellation()
    first.cancel()
    session.run({"x": X}, cancellation=second)
    second.cancel()
    session.run({"x": X}, cancellation=session.cancellation())


def test_a_run_that_was_cancelled_leaves_nothing_behind() -> None:
    session = load(identity("FP32", (4,)))
    for _ in range(3):
        cancellation = session.cancellation()
        cancellation.cancel()
        refused(QuotaExceeded, "quota.run_time", partial(session.run, {"x": X}, cancellation=cancellation))
        session.run({"x": X}, cancellation=session.cancellation())


def test_a_run_that_failed_leaves_its_options_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(identity("FP32", (4,)))
    made = session.cancellation()
    options = made.options

    def fail(*_: object) -> None:
        raise RuntimeError("unknown")

    with monkeypatch.context() as patch:
        patch.setattr(session, "_native", SimpleNamespace(run=fail))
        refused(InvalidInput, "input.run", lambda: session.run({"x": X}, cancellation=made))
    assert made.options is None
    assert session.cancellation().options is options


QUIETLY = """
import sys
import numpy as np
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.wire.tensor import Tensor

session = OnnxRuntimeEngine().load(sys.stdin.buffer.read(), {})
session.run({"x": Tensor("x", "FP32", np.ones(4, np.float32))}, ())
"""


def test_nothing_is_noted_to_be_reported(tmp_path: Path) -> None:
    # Where one of these is set, ONNX Runtime is quiet by itself.
    quiet = {"CI", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in quiet} | {"HOME": str(tmp_path)}
    command = [sys.executable, "-c", QUIETLY]
    subprocess.run(command, input=identity(shape=(4,)), env=environment, check=True, timeout=60)
    assert not any(tmp_path.rglob("*"))
