from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import text_models
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.enclave.models.description import Task
from blindai.enclave.text import open_text
from blindai.enclave.text.session import MAX_TEXT_BYTES, MAX_TEXTS
from blindai.errors import BlindAIError
from blindai.wire.tensor import Tensor
from onnx_models import identity

TEXTS = st.lists(st.lists(st.sampled_from(("the", "patient", "feverish", "qqq", ".")), max_size=40).map(" ".join))


def refusal(task: Mapping[str, Any], model: bytes | None = None) -> str:
    session = OnnxRuntimeEngine().load(model or text_models.model(), {})
    with pytest.raises(BlindAIError) as caught:
        open_text(session, text_models.files(task))
    return f"{caught.value.code}: {caught.value.message}"


def refused_run(texts: Sequence[bytes]) -> str:
    data = np.empty(len(texts), dtype=object)
    data[:] = list(texts)
    with pytest.raises(BlindAIError) as caught:
        text_models.session().run({"text": Tensor("text", "BYTES", data)})
    return caught.value.code


def test_what_it_takes_and_gives() -> None:
    session = text_models.session()
    assert [str(spec.metadata) for spec in session.inputs] == ["'text' BYTES [-1]"]
    assert [str(spec.metadata) for spec in session.outputs] == ["'embedding' FP32 [-1, 8]", "'tokens' INT32 [-1]"]
    assert (session.task, session.labels) == (Task.EMBED, ())
    embedding, tokens = session.run(text_models.inputs(["the patient is well", "no fever"]))
    assert tokens.data.tolist() == [6, 4]
    assert np.linalg.norm(embedding.data, axis=1) == pytest.approx([1.0, 1.0], abs=1e-6)


@given(texts=TEXTS, rows=st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_an_answer_never_depends_on_its_neighbours(texts: list[str], rows: int) -> None:
    session = text_models.session(rows=rows)
    together, counts = session.run(text_models.inputs(texts))
    assert together.data.shape == (len(texts), text_models.SIZE)
    for index, text in enumerate(texts):
        alone, count = session.run(text_models.inputs([text]))
        assert together.data[index].tobytes() == alone.data[0].tobytes()
        assert counts.data[index] == count.data[0] <= 32


def test_a_classifier() -> None:
    session = text_models.session(text_models.classifier_files(), labels=3)
    assert (session.task, session.labels) == (Task.CLASSIFY, text_models.LABELS)
    scores, label, _ = session.run(text_models.inputs(["the patient is well", "no"]))
    assert scores.data.sum(axis=1) == pytest.approx([1.0, 1.0], abs=1e-6)
    assert label.data.tolist() == [text_models.LABELS[best].encode() for best in scores.data.argmax(axis=1)]


def test_labels_that_each_may_hold() -> None:
    task = {"task": "classify", "max_tokens": 32, "labels": text_models.LABELS, "activation": "sigmoid"}
    session = text_models.session(text_models.files(task), labels=3)
    logits = text_models.session(text_models.files({**task, "activation": "none"}), labels=3)
    given_scores, given_logits = (one.run(text_models.inputs(["a fever"]), ["scores"])[0] for one in (session, logits))
    assert given_scores.data == pytest.approx(1 / (1 + np.exp(-given_logits.data)), abs=1e-6)


def test_the_first_token_instead_of_the_mean() -> None:
    task = {"task": "embed", "max_tokens": 32, "normalize": False}
    mean, first = (
        text_models.session(text_models.files({**task, "pooling": pooling})).run(text_models.inputs(["a fever"]))[0]
        for pooling in ("mean", "cls")
    )
    assert not np.allclose(mean.data, first.data)


def test_outputs_by_name() -> None:
    (tokens,) = text_models.session().run(text_models.inputs(["a fever"]), ["tokens"])
    assert (tokens.name, tokens.data.tolist()) == ("tokens", [4])


def test_no_texts() -> None:
    embedding, tokens = text_models.session().run(text_models.inputs([]))
    assert (embedding.data.shape, tokens.data.shape) == ((0, text_models.SIZE), (0,))


def test_a_cancelled_run() -> None:
    session = text_models.session()
    cancellation = session.cancellation()
    cancellation.cancel()
    with pytest.raises(BlindAIError) as caught:
        session.run(text_models.inputs(["a fever"]), cancellation=cancellation)
    assert caught.value.code == "quota.run_time"


def test_a_run_cancelled_between_two_runs_of_the_model() -> None:
    inner = OnnxRuntimeEngine().load(text_models.model(), {})
    session = open_text(inner, text_models.files(), probe=False)
    cancellation = session.cancellation()
    asked: list[object] = []
    made = inner.cancellation

    def cancel_the_second() -> Any:
        asked.append(None)
        if len(asked) == 2:
            cancellation.cancel()
        return made()

    inner.cancellation = cancel_the_second  # type: ignore[method-assign]  # a moment that no thread could hit for sure
    with pytest.raises(BlindAIError) as caught:
        session.run(text_models.inputs(["a", "a fever", "no fever is well"]), cancellation=cancellation)
    assert (caught.value.code, len(asked)) == ("quota.run_time", 2)


def test_texts_that_are_refused() -> None:
    assert refused_run([b"a", b"\xff"]) == "input.bytes"
    assert refused_run([b"a" * (MAX_TEXT_BYTES + 1)]) == "quota.text_size"
    assert refused_run([b"a"] * (MAX_TEXTS + 1)) == "quota.texts"


def test_a_text_without_a_token() -> None:
    session = text_models.session(text_models.files(post_processor=None))
    with pytest.raises(BlindAIError) as caught:
        session.run(text_models.inputs(["a", " "]))
    assert caught.value.code == "input.text"


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"task": "embed", "max_tokens": 65}, "cannot read 65 tokens"),
        ({"task": "embed", "max_tokens": 32, "pooling": "none"}, "must give one vector"),
        ({"task": "embed", "max_tokens": 32, "tensors": {"ids": "ids"}}, "no input 'ids'"),
        ({"task": "embed", "max_tokens": 32, "tensors": {"types": "x"}}, "also needs an input 'token_type_ids'"),
        ({"task": "embed", "max_tokens": 32, "tensors": {"output": "x"}}, "no output 'x'"),
        ({"task": "classify", "max_tokens": 32, "labels": ["a", "b"]}, "has 2 labels"),
    ],
)
def test_tasks_that_the_model_does_not_fit(task: dict[str, Any], words: str) -> None:
    refused = refusal(task)
    assert refused.startswith("model.task_file: ")
    assert words in refused


def test_models_that_take_no_tokens() -> None:
    task = {"task": "embed", "tensors": {"ids": "x"}}
    assert "token ids are INT32 or INT64" in refusal(task, identity("FP32", ("n", "m")))
    assert "texts of any length need [-1, -1]" in refusal(task, identity("INT64", ("n", 4)))
    assert "the output 'y' is INT64" in refusal(task, identity("INT64", ("n", "m")))


def test_missing_files() -> None:
    for missing, code in (("blindai-task.json", "model.task_file"), ("tokenizer.json", "model.tokenizer")):
        files = {name: data for name, data in text_models.files().items() if name != missing}
        with pytest.raises(BlindAIError) as caught:
            open_text(OnnxRuntimeEngine().load(text_models.model(), {}), files)
        assert caught.value.code == code


def test_ids_that_the_model_does_not_have_are_its_own_fault() -> None:
    vocabulary = {word: index + 1000 for index, word in enumerate(text_models.WORDS)}
    changed = {**text_models.tokenizer()["model"], "vocab": vocabulary}
    session = text_models.session(text_models.files(model=changed))
    with pytest.raises(BlindAIError) as caught:
        session.run(text_models.inputs(["the patient"]))
    assert caught.value.code == "model.run"


def test_padding_and_truncation_of_the_file_do_not_count() -> None:
    truncation = {"direction": "Left", "max_length": 3, "strategy": "OnlySecond", "stride": 1}
    session = text_models.session(text_models.files(truncation=truncation))
    plain = text_models.session(text_models.files(padding=None))
    answers = [one.run(text_models.inputs(["the patient has no fever"])) for one in (session, plain)]
    assert answers[0][1].data.tolist() == answers[1][1].data.tolist() == [7]
    assert answers[0][0].data.tobytes() == answers[1][0].data.tobytes()
    assert json.loads(text_models.files()["tokenizer.json"])["padding"] is not None
