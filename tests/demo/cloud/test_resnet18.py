"""The two files of the story's model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from blindai.demo.cloud import resnet18


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resnet18.write_model(tmp_path_factory.mktemp("resnet18"))


def test_the_graph_is_small_and_says_nothing_of_who_made_it() -> None:
    assert resnet18.GRAPH.stat().st_size < 10_000
    graph = onnx.load(resnet18.GRAPH, load_external_data=False)
    assert graph.producer_name == "pytorch"
    assert not [
        trace for trace in (b".py", b"/usr", b"/home", b"site-packages") if trace in resnet18.GRAPH.read_bytes()
    ]
    assert not any(node.doc_string or node.metadata_props for node in graph.graph.node)


def test_it_has_the_layers_of_resnet_18() -> None:
    graph = onnx.load(resnet18.GRAPH, load_external_data=False).graph
    kinds = [node.op_type for node in graph.node]
    # Table 1 of the paper: 17 convolutions and 3 ways past blocks, 8 sums, one layer that is fully connected.
    assert (kinds.count("Conv"), kinds.count("Add"), kinds.count("Gemm")) == (20, 8, 1)
    assert sum(int(np.prod(one.dims)) for one in graph.initializer if one.dims) == 11_679_914


def test_the_weights_lie_beside_it_and_come_from_a_seed(model: Path, tmp_path: Path) -> None:
    weights = model.with_name("resnet18.onnx.data")
    assert sorted(path.name for path in model.parent.iterdir()) == ["resnet18.onnx", "resnet18.onnx.data"]
    assert weights.stat().st_size == 46_719_648
    again = resnet18.write_model(tmp_path)
    assert again.with_name(weights.name).read_bytes() == weights.read_bytes()


def test_scores_are_finite_and_depend_on_the_picture(model: Path) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    scores = [session.run(None, {"image": resnet18.image(number)})[0] for number in range(4)]
    assert {one.shape for one in scores} == {(1, resnet18.CLASSES)}
    assert all(np.isfinite(one).all() for one in scores)
    assert len({int(one.argmax()) for one in scores}) > 1
    assert resnet18.image().shape == resnet18.INPUT_SHAPE
