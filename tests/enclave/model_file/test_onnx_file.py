from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from blindai.enclave.model_file import onnx_file, protobuf
from blindai.enclave.model_file.onnx_file import inspect
from blindai.errors import InvalidModel
from onnx_models import external, identity, model, value

ADD = helper.make_node("Add", ["x", "w"], ["y"])
RELU = helper.make_node("Relu", ["x"], ["y"])
WEIGHTS = numpy_helper.from_array(np.ones(4, np.float32), "w")


def refusal(data: bytes) -> InvalidModel:
    with pytest.raises(InvalidModel) as caught:
        inspect(data)
    assert len(caught.value.message) < 400
    return caught.value


def branch(*nodes: onnx.NodeProto, initializers: Any = ()) -> onnx.GraphProto:
    return helper.make_graph(nodes, "branch", [], [value("y")], initializers)


def conditional(then: onnx.GraphProto) -> bytes:
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=branch(RELU))
    return model([node], inputs=[value("x"), value("c", "BOOL", ())])


def zipped() -> bytes:
    with io.BytesIO() as out:
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("model/data.pkl", b"")
        return out.getvalue()


def tarred() -> bytes:
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("model.onnx"))
        return out.getvalue()


def saved_model() -> bytes:
    # SavedModel: version 1, then one MetaGraphDef of more than a producer's name.
    return b"\x08\x01\x12\x80\x20" + bytes(0x1000)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (pickle.dumps({"weights": [1]}, protocol=2), "pickle"),
        (pickle.dumps({"weights": [1]}, protocol=5), "pickle"),
        (zipped(), "zip"),
        (tarred(), "tar"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "gzip"),
        (b"GGUF\x03\x00\x00\x00" + bytes(40), "GGUF"),
        (b'\x40\x00\x00\x00\x00\x00\x00\x00{"__metadata__":{}}', "safetensors"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(20), "TensorFlow Lite"),
        (b"\x30\x00\x00\x00ORTM" + bytes(20), ".ort"),
        (b"\x93NUMPY\x01\x00", "NumPy"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
        (b"<?xml version='1.0'?><net/>", "XML"),
        (b"<!DOCTYPE html>", "HTML"),
        (saved_model(), "TensorFlow"),
        (b"\x0a\x10\x0a\x04node\x12\x08Identity", "TensorFlow"),
        (b"{}", "begins like no ONNX file"),
        (b"hello", "begins like no ONNX file"),
        (bytes(64), "begins like no ONNX file"),
        (b"\xff" * 64, "begins like no ONNX file"),
    ],
)
def test_another_format_is_refused_by_its_name(data: bytes, named: str) -> None:
    error = refusal(data)
    assert error.code == "model.not_onnx"
    assert named in error.message
    assert error.hint


def test_an_empty_file_is_refused() -> None:
    assert refusal(b"").code == "model.empty"


def test_every_cut_of_a_model_is_refused() -> None:
    whole = model([ADD], initializers=[WEIGHTS])
    graph_end = len(whole) - len(onnx.ModelProto(opset_import=[helper.make_opsetid("", 21)]).SerializeToString())
    for length in range(1, graph_end):
        assert refusal(whole[:length]).code == "model.truncated", length
    assert f"goes on to byte {graph_end}" in refusal(whole[: graph_end - 10]).message


@pytest.mark.parametrize(
    "tail",
    [
        b"\x0b",  # a group, which protocol buffers gave up
        b"\x3a\x02\x0a\x05",  # a graph whose node is longer than the graph
        b"\x3a\x05\x2a\x03\x42\x01\xff",  # an initializer whose name is not UTF-8
        b"\x10" + b"\xff" * 11,  # a number that never ends
        b"\x10" + b"\xff" * 9 + b"\x02",  # a number of more than 64 bits, which other readers cut
        b"\xba\x80\x80\x80\x10\x00",  # a key of more than 32 bits: other readers find a graph behind it
        b"\x02\x00",  # a field without a number
    ],
)
def test_what_is_no_protocol_buffer_is_refused(tail: bytes) -> None:
    assert refusal(b"\x08\x0a" + tail).code == "model.damaged"


@pytest.mark.parametrize("tail", [b"\x11\x00", b"\x15\x00", b"\x10", b"\x10\x80"])
def test_a_number_cut_short_at_the_end_is_a_truncation(tail: bytes) -> None:
    assert refusal(b"\x08\x0a" + tail).code == "model.truncated"


def test_fields_of_other_types_and_numbers_are_skipped_as_protocol_buffers_say() -> None:
    # Numbers where messages and text are expected, and widths that nothing here has. Field 14 of a tensor is a number.
    noise = b"".join(bytes([number << 3, 1]) for number in range(1, 14)) + b"\x19" + bytes(8) + b"\x1d" + bytes(4)
    tensor_type = _field(1, noise)
    attribute = noise + _field(5, noise) + _field(22, noise + _field(1, noise) + _field(3, b""))
    graph = noise
    graph += _field(1, noise + _field(5, attribute))
    graph += _field(5, noise + _field(13, noise))
    graph += _field(11, noise + _field(2, noise + tensor_type))
    graph += _field(15, noise)
    file = inspect(b"\x08\x0a" + noise[4:] + _field(25, noise) + _field(7, graph))
    assert file.external == frozenset()


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80, number >> 7])


def test_a_model_without_a_graph_is_refused() -> None:
    assert refusal(onnx.ModelProto(ir_version=10, producer_name="x").SerializeToString()).code == "model.truncated"


def test_a_file_of_countless_fields_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "MAX_FIELDS", 1000)
    graph = b"\x10\x00" * 2000
    assert refusal(b"\x08\x0a\x3a" + _varint(len(graph)) + graph).code == "model.too_complex"


def test_graphs_nested_too_deep_are_refused() -> None:
    graph = branch(RELU)
    for _ in range(onnx_file.MAX_DEPTH):
        graph = branch(helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=branch()))
    assert refusal(conditional(graph)).code == "model.too_complex"


def test_every_byte_replaced_is_read_or_refused() -> None:
    whole = model([ADD], initializers=[external("w", "w.data")])
    for index in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[index] ^= 1 << bit
            try:
                inspect(flipped)
            except InvalidModel as error:
                code = error.code
                assert code.startswith("model."), (index, bit)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for begin in (b"", b"\x08\x0a", b"\x08\x0a\x3a"):
        try:
            inspect(begin + data)
        except InvalidModel as error:
            code = error.code
            assert code.startswith("model.")


# Operators


@pytest.mark.parametrize("domain", ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"])
def test_an_operator_of_a_known_domain_is_accepted(domain: str) -> None:
    inspect(model([helper.make_node("Anything", ["x"], ["y"], domain=domain)], domains=[domain]))


@pytest.mark.parametrize(
    "domain", ["evil", "ai.onnx.contrib", "ai.onnx.preview.training", "org.pytorch.aten", "AI.ONNX"]
)
def test_an_operator_of_another_domain_is_refused(domain: str) -> None:
    node = helper.make_node("Launch", ["x"], ["y"], domain=domain)
    function = helper.make_function("local", "f", ["x"], ["y"], [node], [helper.make_opsetid("", 21)])
    for data in (
        model([node], domains=[domain]),
        conditional(branch(node)),
        model([helper.make_node("f", ["x"], ["y"], domain="local")], domains=["local"], functions=[function]),
    ):
        error = refusal(data)
        assert error.code == "model.op_domain"
        assert "'Launch'" in error.message
        assert domain in error.message


def test_a_function_that_the_model_brings_itself_is_accepted() -> None:
    function = helper.make_function("pkg.local", "f", ["x"], ["y"], [RELU], [helper.make_opsetid("", 21)])
    call = helper.make_node("f", ["x"], ["y"], domain="pkg.local")
    inspect(model([call], domains=["pkg.local"], functions=[function]))
    other = helper.make_node("g", ["x"], ["y"], domain="pkg.local")
    assert refusal(model([other], domains=["pkg.local"], functions=[function])).code == "model.op_domain"


# External data


def test_external_data_are_found() -> None:
    weights = [external("w", "w.data"), external("v", "./sub/v.data"), external("u", "w.data", offset=16)]
    file = inspect(model([ADD], initializers=weights))
    assert file.external == {"w.data", "sub/v.data"}
    file.refuse_missing({"w.data": b"", "sub/v.data": b"", "more": b""})


def test_missing_external_data_are_named() -> None:
    file = inspect(model([ADD], initializers=[external("w", "w.data"), external("v", "v.data")]))
    with pytest.raises(InvalidModel) as caught:
        file.refuse_missing({"v.data": b""})
    assert caught.value.code == "model.external_data_missing"
    assert caught.value.message.endswith(": 'w.data'")


def test_many_missing_files_are_counted() -> None:
    file = inspect(model([ADD], initializers=[external(f"w{n}", f"w{n}.data") for n in range(100)]))
    with pytest.raises(InvalidModel) as caught:
        file.refuse_missing({})
    assert caught.value.code == "model.external_data_missing"
    assert caught.value.message.endswith("and 92 more")


@pytest.mark.parametrize(
    "location",
    [
        "/etc/passwd",
        "../w.data",
        "sub/../../w.data",
        "sub/..",
        "..",
        "",
        None,
        "sub//w.data",
        "sub/",
        "..\\w.data",
        "C:w.data",
        "file://w.data",
        "*/_ORT_MEM_ADDR_/*",
        "w\0.data",
    ],
)
def test_external_data_outside_the_model_are_refused(location: str | None) -> None:
    error = refusal(model([ADD], initializers=[external("w", location)]))
    assert error.code == "model.external_data_path"
    assert "'w'" in error.message


def test_each_of_two_locations_is_checked() -> None:
    tensor = external("w", "w.data")
    tensor.external_data.add(key="location", value="/etc/passwd")
    assert refusal(model([ADD], initializers=[tensor])).code == "model.external_data_path"


@pytest.mark.parametrize("location", [b"\x70\x01\x70\x07", b"\x70\x07\x70\x01", b"\x70\x81\x80\x80\x80\x10"])
def test_a_data_location_that_readers_may_take_for_external_is(location: bytes) -> None:
    # data_location twice, once with a value that enums do not have; or cut to 32 bits.
    tensor = b"\x42\x01w" + location + b"\x6a\x0d\x0a\x08location\x12\x01/"
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    assert refusal(b"\x08\x0a\x3a" + bytes([len(graph)]) + graph).code == "model.external_data_path"


def test_entries_without_external_location_are_ignored() -> None:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "w")
    tensor.external_data.add(key="location", value="/etc/passwd")
    assert inspect(model([ADD], initializers=[tensor])).external == frozenset()


def test_external_data_within_the_graph_are_refused() -> None:
    weights = external("w", "w.data")
    sparse = helper.make_sparse_tensor(weights, numpy_helper.from_array(np.arange(4), "i"), [8])
    constant = helper.make_node("Constant", [], ["w"], value=weights)
    listed = helper.make_node("Constant", [], ["w"])
    listed.attribute.add(name="value", type=onnx.AttributeProto.TENSORS).tensors.append(weights)
    sparse_constant = helper.make_node("Constant", [], ["w"], sparse_value=sparse)
    function = helper.make_function("local", "f", ["x"], ["y"], [constant, ADD], [helper.make_opsetid("", 21)])
    default = helper.make_function(
        "local", "f", ["x"], ["y"], [RELU], [helper.make_opsetid("", 21)],
        attribute_protos=[helper.make_attribute("value", weights)],
    )  # fmt: skip
    call = helper.make_node("f", ["x"], ["y"], domain="local")
    with_sparse = onnx.load_model_from_string(model([ADD]))
    with_sparse.graph.sparse_initializer.append(sparse)
    for data in (
        model([constant, ADD]),
        model([listed, ADD]),
        model([sparse_constant, ADD]),
        conditional(branch(ADD, initializers=[weights])),
        model([call], domains=["local"], functions=[function]),
        model([call], domains=["local"], functions=[default]),
        with_sparse.SerializeToString(),
    ):
        assert refusal(data).code == "model.external_data_nested"


# Types


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (TensorProto.FLOAT8E4M3FN, "float8e4m3fn"),
        (TensorProto.INT4, "int4"),
        (TensorProto.COMPLEX64, "complex64"),
        (TensorProto.UNDEFINED, "undefined"),
        (99, "type 99"),
    ],
)
def test_element_types_that_the_protocol_lacks_are_refused(kind: int, named: str) -> None:
    error = refusal(identity(kind))
    assert error.code == "model.unsupported_type"
    assert named in error.message
    assert "input 'x'" in error.message


_FLOAT = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])


@pytest.mark.parametrize(
    ("type_", "named"),
    [
        (helper.make_sequence_type_proto(_FLOAT), "a sequence"),
        (helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, _FLOAT)), "a sequence"),
        (helper.make_map_type_proto(TensorProto.STRING, _FLOAT), "a map"),
        (helper.make_optional_type_proto(_FLOAT), "an optional value"),
        (helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [1]), "a sparse tensor"),
    ],
)
def test_what_is_no_tensor_is_refused(type_: onnx.TypeProto, named: str) -> None:
    error = refusal(model([RELU], outputs=[helper.make_value_info("probabilities", type_)]))
    assert error.code == "model.unsupported_type"
    assert f"output 'probabilities' is {named}" in error.message
    assert ("zipmap" in error.hint) == (named in {"a sequence", "a map"})


def test_the_type_of_an_input_that_has_a_value_does_not_matter() -> None:
    hidden = TensorProto(name="w", dims=[2], data_type=TensorProto.INT4, raw_data=b"\x11")
    inspect(model([RELU], inputs=[value("x"), value("w", TensorProto.INT4)], initializers=[hidden]))


def test_a_scalar_is_told_from_an_unknown_rank() -> None:
    file = inspect(model([RELU], inputs=[value("x", shape=())], outputs=[value("y", shape=None)]))
    assert file.inputs["x"].ranked
    assert not file.outputs["y"].ranked
