from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from blindai.enclave.engine import TensorSpec
from blindai.enclave.engines import openvino as engine_module
from blindai.enclave.engines.openvino import OpenVinoEngine
from blindai.errors import BlindAIError, InvalidInput, QuotaExceeded
from blindai.wire.datatype import DATATYPES
from blindai.wire.tensor import Tensor
from enclave_server import looping_model
from onnx_models import ELEMENT_TYPES, external, identity, model, value

node = helper.make_node
X = np.arange(4, dtype=np.float32)


def fp32(name: str, *values: float) -> dict[str, Tensor]:
    return {name: Tensor.from_array(name, np.array(values, np.float32))}


def refusal(data: bytes, external: dict[str, bytes] | None = None, **options: Any) -> BlindAIError:
    with pytest.raises(BlindAIError) as caught:
        OpenVinoEngine(**options).load(data, external or {})
    return caught.value


@pytest.mark.parametrize("datatype", sorted(ELEMENT_TYPES.keys() - {"BYTES"}))
def test_tensors_of_each_datatype_come_back_bit_for_bit(datatype: str) -> None:
    data = np.arange(6).reshape(2, 3).astype(DATATYPES[datatype].dtype)
    session = OpenVinoEngine().load(identity(datatype, ("n", 3)), {})
    assert session.inputs == (TensorSpec("x", datatype, (-1, 3)),)
    (answer,) = session.run({"x": Tensor("x", datatype, data)})
    assert (answer.name, answer.datatype, answer.data.dtype) == ("y", datatype, data.dtype)
    assert answer.data.tobytes() == data.tobytes()


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3)])
def test_scalars_and_empty_tensors_are_run(shape: tuple[int, ...]) -> None:
    session = OpenVinoEngine().load(identity("FP32", [f"d{axis}" for axis in range(len(shape))]), {})
    (answer,) = session.run({"x": Tensor.from_array("x", np.ones(shape, np.float32))})
    assert answer.data.shape == shape


def test_answers_are_kept_when_the_session_runs_again() -> None:
    session = OpenVinoEngine().load(identity(), {})
    (first,) = session.run(fp32("x", 1, 2))
    session.run(fp32("x", 3, 4))
    assert first.data.tolist() == [1, 2]


def test_views_that_are_read_only_or_not_aligned_are_taken() -> None:
    session = OpenVinoEngine().load(identity(), {})
    data = np.frombuffer(b"\0" + X.tobytes(), np.float32, offset=1)
    assert session.run({"x": Tensor("x", "FP32", data)})[0].data.tolist() == X.tolist()
    assert session.run({"x": Tensor("x", "FP32", X[::2])})[0].data.tolist() == [0, 2]


def test_threads_run_one_session_at_once() -> None:
    session = OpenVinoEngine(lanes=2).load(identity(), {})

    def asked(number: int) -> NDArray[Any]:
        return session.run(fp32("x", *[number] * 100))[0].data

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(asked, range(200)))
    assert [set(answer.tolist()) for answer in answers] == [{float(number)} for number in range(200)]


def test_outputs_are_given_in_the_order_wanted() -> None:
    nodes = [node("Relu", ["x"], ["a"]), node("Neg", ["x"], ["b"])]
    session = OpenVinoEngine().load(model(nodes, outputs=[value("a"), value("b")]), {})
    assert [tensor.name for tensor in session.run(fp32("x", *X), ["b", "a"])] == ["b", "a"]


def test_an_input_that_nothing_reads_is_asked_for_all_the_same() -> None:
    made = model([node("Relu", ["x"], ["y"])], inputs=[value("x"), value("z")])
    session = OpenVinoEngine().load(made, {})
    with pytest.raises(InvalidInput) as caught:
        session.run(fp32("x", *X))
    assert caught.value.code == "input.missing"
    assert session.run(fp32("x", *X) | fp32("z", *X))[0].data.tolist() == X.tolist()


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({}, "input.missing"),
        (fp32("z", *X), "input.name"),
        ({"x": Tensor.from_array("x", X.astype(np.float64))}, "input.datatype"),
        ({"x": Tensor.from_array("x", X[:3])}, "input.shape"),
    ],
)
def test_inputs_that_the_model_does_not_take_are_refused(inputs: dict[str, Tensor], code: str) -> None:
    session = OpenVinoEngine().load(model([node("Relu", ["x"], ["y"])]), {})
    with pytest.raises(InvalidInput) as caught:
        session.run(inputs)
    assert caught.value.code == code


def test_external_data_comes_from_the_upload() -> None:
    made = model([node("Add", ["x", "w"], ["y"])], initializers=[external("w", "w.data")])
    session = OpenVinoEngine().load(made, {"w.data": memoryview(X.tobytes())})
    assert session.run(fp32("x", *X))[0].data.tolist() == (2 * X).tolist()
    assert session.memory == len(made) + 16


def test_external_data_that_is_not_there_is_not_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.data").write_bytes(X.tobytes())
    monkeypatch.chdir(tmp_path)
    made = model([node("Add", ["x", "w"], ["y"])], initializers=[external("w", "w.data")])
    assert refusal(made).code == "model.external_data_missing"


def test_an_address_in_memory_is_no_file() -> None:
    """OpenVINO's reader takes this name for an address in its own process."""
    made = model([node("Add", ["x", "w"], ["y"])], initializers=[external("w", "*/_ORT_MEM_ADDR_/*", offset=4096)])
    assert refusal(made, {"*/_ORT_MEM_ADDR_/*": b""}).code == "model.external_data_path"


def test_text_is_refused() -> None:
    assert refusal(identity("BYTES")).code == "model.unsupported_type"


def test_an_input_with_a_value_of_its_own_is_refused() -> None:
    weights = [numpy_helper.from_array(X, "w")]
    made = model([node("Add", ["x", "w"], ["y"])], inputs=[value("x"), value("w")], initializers=weights)
    assert refusal(made).code == "model.unsupported_type"


def test_an_unknown_rank_is_refused() -> None:
    made = model([node("Relu", ["x"], ["y"])], inputs=[value("x", "FP32", None)], outputs=[value("y", "FP32", None)])
    assert refusal(made).code == "model.invalid"


def test_an_unknown_operator_is_refused_without_a_path_of_ours() -> None:
    error = refusal(model([node("NoSuchOperator", ["x"], ["y"])]))
    assert error.code == "model.unsupported_operator"
    assert "/" not in error.message


def test_what_is_no_onnx_is_not_given_to_other_readers() -> None:
    assert refusal(b"<net name='g' version='11'></net>").code == "model.not_onnx"


def test_bfloat16_is_refused_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    _, reader = engine_module._core()

    class Older:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32"]

    monkeypatch.setattr(engine_module, "_core", lambda: (Older(), reader))
    assert refusal(identity(), precision="bfloat16").code == "model.invalid"


def test_a_value_that_the_model_cannot_work_on_is_the_inputs_fault() -> None:
    takes = [value("x", "FP32", ("n", "k")), value("w", "FP32", ("k2", "m"))]
    made = model([node("MatMul", ["x", "w"], ["y"])], inputs=takes, outputs=[value("y", "FP32", None)])
    session = OpenVinoEngine().load(made, {})
    ones = {name: Tensor.from_array(name, np.ones((2, 3), np.float32)) for name in "xw"}
    with pytest.raises(InvalidInput) as caught:
        session.run(ones)
    assert caught.value.code == "input.run"
    right = ones | {"w": Tensor.from_array("w", np.ones((3, 1), np.float32))}
    assert session.run(right)[0].data.tolist() == [[3], [3]], "the session lives on"


def test_a_run_is_stopped() -> None:
    layers = [node("MatMul", ["x" if n == 0 else f"h{n}", "w"], [f"h{n + 1}"]) for n in range(400)]
    weights = [numpy_helper.from_array(np.eye(512, dtype=np.float32), "w")]
    takes, gives = [value("x", "FP32", ("n", 512))], [value("h400", "FP32", ("n", 512))]
    session = OpenVinoEngine().load(model(layers, inputs=takes, outputs=gives, initializers=weights), {})
    inputs = {"x": Tensor.from_array("x", np.ones((4000, 512), np.float32))}
    stop = session.cancellation()
    timer = threading.Timer(0.3, stop.cancel)
    timer.start()
    begin = time.monotonic()
    with pytest.raises(QuotaExceeded) as caught:
        session.run(inputs, cancellation=stop)
    assert caught.value.code == "quota.run_time"
    assert time.monotonic() - begin < 60
    timer.join()
    assert session.run({"x": Tensor.from_array("x", X.repeat(128)[None])})[0].data.shape == (1, 512)


def test_a_run_that_was_stopped_before_does_not_begin() -> None:
    session = OpenVinoEngine().load(identity(), {})
    stop = session.cancellation()
    stop.cancel()
    with pytest.raises(QuotaExceeded) as caught:
        session.run(fp32("x", 1), cancellation=stop)
    assert caught.value.code == "quota.run_time"


def test_a_model_can_be_refused_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    session = OpenVinoEngine().load(identity(), {})

    def full(*_: Any) -> None:
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(session, "_take", full)
    with pytest.raises(QuotaExceeded) as caught:
        session.run(fp32("x", 1))
    assert caught.value.code == "quota.memory"
    monkeypatch.setattr(engine_module, "embed", full)
    made = model([node("Add", ["x", "w"], ["y"])], initializers=[external("w", "w.data")])
    assert refusal(made, {"w.data": X.tobytes()}).code == "quota.memory"


def test_what_cannot_be_converted_is_refused_without_a_path_of_ours() -> None:
    error = refusal(model([node("Conv", ["x", "x"], ["y"])]))
    assert error.code == "model.unsupported_operator"
    assert "/" not in error.message
    assert "\n" not in error.message


def test_a_model_whose_outputs_depend_on_values_is_refused() -> None:
    made = model([node("NonZero", ["x"], ["y"])], outputs=[value("y", "INT64", None)])
    assert refusal(made).code == "model.unsupported_operator"
    assert refusal(looping_model()).code == "model.unsupported_operator"


def test_dimensions_of_one_name_must_be_equal() -> None:
    takes = [value("x", "FP32", ("n", "k")), value("w", "FP32", ("n", "k"))]
    session = OpenVinoEngine().load(
        model([node("Add", ["x", "w"], ["y"])], inputs=takes, outputs=[value("y", "FP32", None)]), {}
    )
    ones = {name: Tensor.from_array(name, np.ones((2, 3), np.float32)) for name in "xw"}
    assert session.run(ones)[0].data.shape == (2, 3)
    with pytest.raises(InvalidInput) as caught:
        session.run(ones | {"w": Tensor.from_array("w", np.ones((2, 1), np.float32))})
    assert caught.value.code == "input.shape"
