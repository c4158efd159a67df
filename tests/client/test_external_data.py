from __future__ import annotations

import io

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from blindai.client.external_data import MAX_DEPTH, external_data
from blindai.errors import InvalidModel


def walk(model: onnx.ModelProto | bytes) -> dict[str, int]:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return external_data(io.BytesIO(content), len(content))


def refusal(content: bytes) -> InvalidModel:
    with pytest.raises(InvalidModel) as caught:
        walk(content)
    return caught.value


def outcome(content: bytes) -> dict[str, int] | str:
    """What was found, or the code of the refusal."""
    try:
        return walk(content)
    except InvalidModel as error:
        return error.code


def external(**place: str) -> TensorProto:
    tensor = TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def inline() -> TensorProto:
    return helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])


def graph(*initializers: TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], initializer=list(initializers))


def constant(tensor: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=tensor)


def nested(graphs: int) -> bytes:
    """A tensor in so many graphs inside each other, three messages for each; the libraries refuse to write too many."""
    content = field(5, field(5, external(location="deep").SerializeToString()))  # of an attribute of a node
    for _ in range(graphs - 1):
        content = field(5, field(6, field(1, content)))
    return field(7, field(1, content))


def field(number: int, content: bytes) -> bytes:
    length, rest = b"", len(content)
    while rest > 0x7F:
        length += bytes([rest & 0x7F | 0x80])
        rest >>= 7
    return bytes([number << 3 | 2]) + length + bytes([rest]) + content


def test_model_that_holds_its_weights_needs_no_file() -> None:
    assert walk(helper.make_model(graph(inline(), nodes=(constant(inline()),)))) == {}


def test_tensors_are_found_wherever_a_model_may_hold_them() -> None:
    function = helper.make_function("f", "F", [], ["c"], [constant(external(location="function"))], [])
    function.attribute_proto.add(name="a", type=onnx.AttributeProto.TENSOR, t=external(location="default"))
    sparse = onnx.SparseTensorProto(values=external(location="values"), indices=external(location="indices"))
    main = graph(external(location="initializer"), inline(), nodes=(constant(external(location="constant")),))
    main.sparse_initializer.append(sparse)
    node = main.node.add(op_type="Odd")
    node.attribute.add(name="ts", tensors=[external(location="tensors")])
    node.attribute.add(name="s", sparse_tensor=onnx.SparseTensorProto(values=external(location="sparse")))
    node.attribute.add(name="ss", sparse_tensors=[onnx.SparseTensorProto(values=external(location="sparses"))])
    node.attribute.add(name="g", g=graph(external(location="branch")))
    node.attribute.add(name="gs", graphs=[graph(external(location="branches"))])
    model = helper.make_model(main, functions=[function])
    model.training_info.add(
        initialization=graph(external(location="initialization")), algorithm=graph(external(location="algorithm"))
    )
    assert sorted(walk(model)) == sorted(
        [
            "algorithm",
            "branch",
            "branches",
            "constant",
            "default",
            "function",
            "indices",
            "initialization",
            "initializer",
            "sparse",
            "sparses",
            "tensors",
            "values",
        ]
    )


@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=5), st.none() | st.integers(0, 2**40), st.none() | st.integers(0, 2**40))
    )
)
def test_each_file_must_reach_its_last_tensor(places: list[tuple[str, int | None, int | None]]) -> None:
    expected: dict[str, int] = {}
    tensors = []
    for location, offset, length in places:
        place = {"location": location}
        if offset is not None:
            place["offset"] = str(offset)
        if length is not None:
            place["length"] = str(length)
        tensors.append(external(**place))
        expected[location] = max(expected.get(location, 0), (offset or 0) + (length or 0))
    assert walk(helper.make_model(graph(*tensors))) == expected


def test_place_of_a_tensor_that_is_not_external_does_not_count() -> None:
    tensor = external(location="left over")
    tensor.data_location = TensorProto.DEFAULT
    assert walk(helper.make_model(graph(tensor))) == {}


@pytest.mark.parametrize(
    "place",
    [
        {},
        {"location": ""},
        {"location": "w", "offset": "-1"},
        {"location": "w", "offset": "1_0"},
        {"location": "w", "length": "٣"},
        {"location": "w", "length": "9" * 5000},
        {"location": "w", "length": ""},
    ],
)
def test_nonsensical_places_are_refused(place: dict[str, str]) -> None:
    assert refusal(helper.make_model(graph(external(**place))).SerializeToString()).code == "model.damaged"


def test_location_that_is_not_text_is_refused() -> None:
    content = helper.make_model(graph(external(location="abcd"))).SerializeToString()
    assert refusal(content.replace(b"abcd", b"\xff\xfe\xfd\xfc")).code == "model.damaged"


def test_deeply_nested_graphs_are_walked_up_to_the_limit() -> None:
    deepest = (MAX_DEPTH - 2) // 3
    assert walk(nested(deepest)) == {"deep": 0}
    onnx.load_model_from_string(nested(deepest))
    assert refusal(nested(deepest + 2)).code == "model.too_complex"


def test_model_cut_short_is_refused_at_every_length() -> None:
    content = helper.make_model(graph(inline(), external(location="w"))).SerializeToString()
    whole = walk(content)
    for length in range(len(content)):
        # Cut between two fields behind the graph, it is shorter but well-formed.
        assert outcome(content[:length]) in (whole, "model.truncated")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\x08",  # a version and no graph
        b"\x3a",
        b"\x3a\x05\x0a",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x09\0\0",  # eight bytes announced, two there
        b"\x0d\0",
        b"\x3a\x02\x0d\0\0\0\0",  # a field that runs out of its message
        b"\x3a\x02\x08\x80\x01",
    ],
)
def test_file_cut_short_is_refused(content: bytes) -> None:
    assert refusal(content).code == "model.truncated"


@pytest.mark.parametrize(
    "content",
    [
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length of more than ten bytes
        b"\x0b\x0c",  # a group, which ONNX never had
        b"\x0f",
        b"\x3a\x07\x2a\x05\x6a\x03\x08\x01\x00",  # an entry of numbers
    ],
)
def test_what_is_not_protobuf_is_refused(content: bytes) -> None:
    assert refusal(content).code == "model.damaged"


def test_fields_of_fixed_size_are_skipped() -> None:
    model = helper.make_model(graph()).SerializeToString()
    assert walk(b"\xf9\x07" + bytes(8) + b"\xfd\x07" + bytes(4) + model) == {}


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    assert outcome(b"\x3a\x00" + content) in ({}, "model.damaged", "model.truncated")


@given(st.data())
def test_damaged_models_are_read_or_refused(data: st.DataObject) -> None:
    model = helper.make_model(
        graph(external(location="w", offset="5", length="7"), inline(), nodes=(constant(external(location="v")),))
    )
    content = bytearray(model.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    found = outcome(bytes(content))
    assert isinstance(found, dict) or found in {"model.damaged", "model.truncated"}
