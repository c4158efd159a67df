from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.errors import InvalidModel
from blindai.wire.task import MAX_TASK_BYTES, MAX_TOKENS, Pooling, TextTask, TextTaskName


def test_the_least() -> None:
    task = TextTask.parse(b'{"task": "embed"}')
    assert (task.task, task.max_tokens, task.pooling, task.normalize) == (TextTaskName.EMBED, 512, Pooling.MEAN, True)


@pytest.mark.parametrize(
    "members",
    [
        {"task": "embed", "max_tokens": 256, "pooling": "cls", "normalize": False},
        {"task": "classify", "labels": ["a", "b"], "activation": "sigmoid", "tensors": {"ids": "x", "output": "y"}},
    ],
)
def test_what_is_written_is_read_back(members: dict[str, Any]) -> None:
    task = TextTask.parse(json.dumps(members).encode())
    assert TextTask.parse(task.encode()) == task
    assert {name: json.loads(task.encode())[name] for name in members} == members | {
        name: json.loads(task.encode())[name] for name in members if name == "tensors"
    }


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"task": "chat"},
        {"task": "embed", "max_token": 5},
        {"task": "embed", "max_tokens": 0},
        {"task": "embed", "max_tokens": MAX_TOKENS + 1},
        {"task": "embed", "max_tokens": True},
        {"task": "embed", "labels": ["a"]},
        {"task": "embed", "activation": "none"},
        {"task": "embed", "tensors": {"ids": ""}},
        {"task": "classify"},
        {"task": "classify", "labels": []},
        {"task": "classify", "labels": ["a", "a"]},
        {"task": "classify", "labels": [""]},
        {"task": "classify", "labels": ["a"], "pooling": "cls"},
        {"task": "classify", "labels": ["a"], "normalize": False},
    ],
)
def test_what_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(InvalidModel) as caught:
        TextTask.parse(json.dumps(members).encode())
    assert caught.value.code == "model.task_file"


@given(st.one_of(st.binary(max_size=200), st.just(b"[" * 100_000), st.just(b" " * (MAX_TASK_BYTES + 1))))
def test_what_is_no_task_file(content: bytes) -> None:
    with pytest.raises(InvalidModel) as caught:
        TextTask.parse(content)
    assert caught.value.code == "model.task_file"
