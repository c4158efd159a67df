from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from blindai.enclave.config import EngineName
from blindai.enclave.model_file.opening import Opened, OpeningSettings, open_model
from blindai.enclave.models.description import Trial
from blindai.errors import BlindAIError, QuotaExceeded
from blindai.wire.tensor import Tensor
from enclave_server import looping_model
from onnx_models import external, identity, model, value

node = helper.make_node
BOTH = OpeningSettings(engines=(EngineName.ONNXRUNTIME, EngineName.OPENVINO))
REDUCED = msgspec.structs.replace(BOTH, reduced_precision=True)


def opened(
    body: bytes, settings: OpeningSettings = BOTH, *, bundle: bool = False, trial: Trial | None = None
) -> Opened:
    return open_model(memoryview(body), bundle=bundle, settings=settings, trial=trial)


def refusal(body: bytes, settings: OpeningSettings = BOTH) -> BlindAIError:
    with pytest.raises(BlindAIError) as caught:
        opened(body, settings)
    return caught.value


def bundle_of(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def linear() -> bytes:
    weights = [numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")]
    takes, gives = [value("x", "FP32", ("n", 8))], [value("y", "FP32", ("n", 8))]
    return model([node("MatMul", ["x", "w"], ["y"])], inputs=takes, outputs=gives, initializers=weights)


def ones(*shape: int) -> dict[str, Tensor]:
    return {"x": Tensor.from_array("x", np.ones(shape, np.float32))}


def test_a_model_is_tried_on_what_is_allowed() -> None:
    session, description = opened(linear())
    trial = description.trial
    assert [candidate.engine for candidate in trial.candidates] == ["onnxruntime", "openvino"]
    assert not any(candidate.refused for candidate in trial.candidates)
    assert trial.shapes == {"x": (1, 8)}
    assert description.inputs == session.inputs
    assert description.memory == len(linear())
    assert description.platform == f"{trial.engine}_onnx"
    assert session.run(ones(3, 8))[0].shape == (3, 8)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_what_was_tried_before_is_opened_as_it_was_chosen(engine: str) -> None:
    trial = Trial(engine=engine, threads=1, precision="float32", run_us=7.0, max_batch=5)
    session, description = opened(linear(), trial=trial)
    assert description.trial is trial
    assert type(session).__module__.endswith(engine)
    assert session.run(ones(1, 8))[0].data.tolist() == [[1.0] * 8]


def test_reduced_precision_is_tried_only_where_it_is_allowed() -> None:
    assert {way.precision for way in BOTH.ways} == {"float32"}
    assert [(way.engine, way.precision) for way in REDUCED.ways] == [
        ("onnxruntime", "float32"),
        ("openvino", "float32"),
        ("openvino", "bfloat16"),
    ]
    assert len(opened(linear(), REDUCED).description.trial.candidates) == 3


def test_one_thread_and_the_most_threads_are_tried() -> None:
    assert [way.threads for way in OpeningSettings(threads=4).ways] == [1, 4]


def test_only_onnxruntime_makes_a_model_fit_to_run_beside_the_server() -> None:
    alone = OpeningSettings(engines=(EngineName.OPENVINO,))
    assert not opened(linear(), alone).description.trial.bounded
    assert opened(linear(), OpeningSettings()).description.trial.bounded
    assert not opened(looping_model(4), OpeningSettings()).description.trial.bounded


def test_a_bundle_is_opened_with_its_external_data() -> None:
    made = model([node("Add", ["x", "w"], ["y"])], initializers=[external("w", "w.data")])
    body = bundle_of({"model.onnx": made, "w.data": np.ones(4, np.float32).tobytes()})
    _, description = opened(body, bundle=True)
    assert not any(candidate.refused for candidate in description.trial.candidates)


def test_nothing_keeps_a_view_of_the_body() -> None:
    body = bytearray(linear())
    view = memoryview(body)
    session, _ = open_model(view, bundle=False, settings=BOTH)
    view.release()
    body.clear()
    assert session.run(ones(1, 8))[0].data.tolist() == [[1.0] * 8]


def test_a_dynamically_quantised_model_is_not_batched() -> None:
    """The range of its numbers is that of the whole batch, so neighbours would show in the answer."""
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    made = model(nodes, inputs=[value("x", "FP32", ("n", 8))], outputs=[value("y", "FP32", ("n", 8))])
    trial = opened(made, OpeningSettings()).description.trial
    assert (trial.max_batch, trial.batch_gain) == (1, 1.0)


# Hostile models.


def test_a_model_that_asks_for_gigabytes_is_refused_for_memory_or_runs_untouched() -> None:
    """What it asks for depends on a value of its input, which is small in the trial; the process is limited later."""
    made = model(
        [node("ConstantOfShape", ["x"], ["y"])], inputs=[value("x", "INT64", (1,))], outputs=[value("y", "FP32", None)]
    )
    trial = opened(made).description.trial
    assert not trial.bounded


def test_a_model_that_never_ends_is_refused_in_time() -> None:
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Cos", ["v"], ["w"])],
        "body",
        [value("i", "INT64", ()), value("go", "BOOL", ()), value("v", "FP32", None)],
        [value("on", "BOOL", ()), value("w", "FP32", None)],
    )
    constants = [numpy_helper.from_array(np.array(2**62), "turns"), numpy_helper.from_array(np.array(True), "go")]
    endless = model([node("Loop", ["turns", "go", "x"], ["y"], body=body)], initializers=constants)
    error = refusal(endless, msgspec.structs.replace(BOTH, limit_ms=300))
    assert isinstance(error, QuotaExceeded)
    assert error.code == "quota.load_time"


def test_an_answer_of_another_shape_than_declared_is_given_as_it_is() -> None:
    made = model([node("Concat", ["x", "x"], ["y"], axis=0)], inputs=[value("x", "FP32", ("n",))], outputs=[value("y")])
    session, description = opened(made, OpeningSettings())
    (answer,) = session.run(ones(3))
    assert answer.data.shape == (6,)
    assert description.trial.max_batch == 1


def test_an_answer_of_another_datatype_than_declared_is_refused() -> None:
    made = model([node("Shape", ["x"], ["y"])])
    assert refusal(made).code == "model.invalid"


def test_a_flood_of_nan_agrees_with_itself() -> None:
    made = model(
        [node("Log", ["n"], ["l"]), node("Add", ["l", "x"], ["y"])],
        initializers=[numpy_helper.from_array(np.full(4, -1, np.float32), "n")],
    )
    trial = opened(made).description.trial
    assert not any(candidate.refused for candidate in trial.candidates)


@pytest.mark.parametrize("shape", [(0,), (0, 4), ("n", 0)])
def test_dimensions_of_nothing_are_opened(shape: tuple[int | str, ...]) -> None:
    assert opened(identity("FP32", shape)).description.trial.shapes["x"][-1] in {0, 4}


def test_a_negative_dimension_is_one_that_the_request_decides() -> None:
    assert opened(identity("FP32", (-5,))).session.inputs[0].shape == (-1,)


def test_a_cyclic_graph_is_refused() -> None:
    assert refusal(model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"])], outputs=[value("b")])).code == (
        "model.invalid"
    )


def test_a_model_of_very_many_inputs_is_opened() -> None:
    names = [f"x{number}" for number in range(2_000)]
    made = model(
        [node("Sum", names, ["y"])],
        inputs=[value(name, "FP32", ("n",)) for name in names],
        outputs=[value("y", "FP32", ("n",))],
    )
    assert len(opened(made, msgspec.structs.replace(BOTH, trial_ms=500)).description.inputs) == 2_000


@pytest.mark.parametrize("cut", range(0, 200, 7))
def test_a_damaged_model_is_refused_with_a_code(cut: int) -> None:
    assert refusal(linear()[:cut]).code.startswith("model.")


def test_the_smallest_integer_divided_by_minus_one_never_runs_beside_the_server() -> None:
    made = model(
        [node("Div", ["x", "w"], ["y"])],
        inputs=[value("x", "INT64"), value("w", "INT64")],
        outputs=[value("y", "INT64")],
    )
    assert not opened(made, OpeningSettings()).description.trial.bounded


def test_a_model_without_inputs_is_opened() -> None:
    constant = onnx.numpy_helper.from_array(np.ones(4, np.float32), "c")
    trial = opened(model([node("Constant", [], ["y"], value=constant)], inputs=[])).description.trial
    assert trial.max_batch == 1
