from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from blindai.enclave.model_file import external_data
from blindai.enclave.model_file.external_data import embed
from blindai.errors import InvalidModel
from onnx_models import external, model, value

ADD = [helper.make_node("Add", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "v"], ["y"])]
FLOATS = np.arange(8, dtype=np.float32)
FILE = FLOATS.tobytes()


def initializers(data: bytes) -> dict[str, list[float]]:
    made = onnx.load_from_string(data)
    onnx.checker.check_model(made)
    return {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in made.graph.initializer}


def test_external_data_moves_into_the_file() -> None:
    here = numpy_helper.from_array(np.ones(4, np.float32), "v")
    whole = embed(model(ADD, initializers=[external("w", "a/w.data", offset=8, length=16), here]), {"a/w.data": FILE})
    assert initializers(whole) == {"w": [2.0, 3.0, 4.0, 5.0], "v": [1.0] * 4}


def test_without_a_length_it_goes_to_the_end_and_a_dot_is_no_folder() -> None:
    weights = [external("w", "./w.data", offset=16), external("v", "v.data")]
    whole = embed(model(ADD, initializers=weights), {"w.data": FILE, "v.data": memoryview(FILE)[:16]})
    assert initializers(whole) == {"w": [4.0, 5.0, 6.0, 7.0], "v": [0.0, 1.0, 2.0, 3.0]}


def test_all_else_stays_as_it_is() -> None:
    here = [numpy_helper.from_array(np.ones(4, np.float32), name) for name in "wv"]
    plain = model(ADD, initializers=here, inputs=[value("x")], doc_string="words", producer_name="somebody")
    assert embed(plain, {}) == plain


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 33), (33, 0), (32, 1), (10**17, 1), ("x", 1), ("-1", 4), ("9" * 30, 1)]
)
def test_data_beyond_the_end_of_a_file_is_refused(offset: int, length: int) -> None:
    made = model(ADD, initializers=[external("w", "w.data", offset=offset, length=length)])
    with pytest.raises(InvalidModel) as caught:
        embed(made, {"w.data": FILE})
    assert caught.value.code == "model.external_data_missing"


def test_what_would_be_no_onnx_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model(ADD, initializers=[external("w", "w.data")])
    monkeypatch.setattr(external_data, "MAX_BYTES", len(made))
    with pytest.raises(InvalidModel) as caught:
        embed(made, {"w.data": FILE})
    assert caught.value.code == "model.too_complex"
