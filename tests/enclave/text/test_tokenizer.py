"""Hostile tokenizers. What only ends with the process (memory, time) is tested where models have processes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import text_models
from blindai.enclave.text.tokenizer import TextTokenizer
from blindai.errors import InvalidModel


def wordpiece(**changes: Any) -> dict[str, Any]:
    return {**text_models.tokenizer()["model"], **changes}


def nested(depth: int) -> dict[str, Any]:
    normalizer: dict[str, Any] = {"type": "Lowercase"}
    for _ in range(depth):
        normalizer = {"type": "Sequence", "normalizers": [normalizer]}
    return normalizer


def template(token: str) -> dict[str, Any]:
    single = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}}


def bpe(**changes: Any) -> dict[str, Any]:
    return {"type": "BPE", "unk_token": None, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], **changes}


def refused(content: bytes) -> str:
    with pytest.raises(InvalidModel) as caught:
        TextTokenizer(content, 32).encode(["the patient has no fever of dengue"])
    assert len(caught.value.message) < 300
    return caught.value.code


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"model": {"type": "Nothing"}}, id="a kind of model that there is not"),
        pytest.param({"model": 7}, id="a number for a model"),
        pytest.param({"model": wordpiece(vocab=["the"])}, id="a list for a vocabulary"),
        pytest.param({"model": wordpiece(vocab={"the": -1})}, id="a negative id"),
        pytest.param({"model": wordpiece(vocab={"the": 2**32})}, id="an id beyond 32 bits"),
        pytest.param({"model": wordpiece(unk_token="[NONE]")}, id="an unknown token for unknown words"),
        pytest.param({"model": bpe(merges=[["a", "c"]])}, id="a merge of what is no token"),
        pytest.param({"model": bpe(vocab={"a": 0, "b": 1}, continuing_subword_prefix="##")}, id="a prefix too long"),
        pytest.param({"model": bpe(dropout=0.5)}, id="merges dropped at random"),
        pytest.param({"model": {"type": "Unigram", "unk_id": 9, "vocab": [["a", -1.0]]}}, id="an id that is not there"),
        pytest.param({"normalizer": nested(200)}, id="nested too deep"),
        pytest.param({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, id="a damaged table"),
        pytest.param({"normalizer": {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}}, id="half a regex"),
        pytest.param({"post_processor": template("[NONE]")}, id="a template with a token that there is not"),
        pytest.param({"post_processor": {"type": "TemplateProcessing"}}, id="a template without anything"),
        pytest.param({"added_tokens": {}}, id="an object for a list"),
    ],
)
def test_hostile_files(changes: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    assert refused(json.dumps(text_models.tokenizer(**changes)).encode()) == "model.tokenizer"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"version":"1.0"}'])
def test_what_is_no_tokenizer(content: bytes) -> None:
    assert refused(content) == "model.tokenizer"


def test_an_expression_that_takes_for_ever(capfd: pytest.CaptureFixture[str]) -> None:
    normalizer = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}
    tokenizer = TextTokenizer(json.dumps(text_models.tokenizer(normalizer=normalizer)).encode(), 32)
    with pytest.raises(InvalidModel) as caught:
        tokenizer.encode(["a" * 40 + "!"])
    assert caught.value.code == "model.tokenizer"
    assert "aaaa" not in caught.value.message


def test_a_flood_of_added_tokens() -> None:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": 100 + index, "content": f"<{index}>", **flags} for index in range(50_000)]
    content = json.dumps(text_models.tokenizer(added_tokens=added)).encode()
    (tokens,) = TextTokenizer(content, 32).encode(["<49999> fever"])
    assert (tokens.ids[0], len(tokens.ids), tokens.ids[2:]) == (2, 4, [9, 3])


def test_a_large_vocabulary() -> None:
    vocabulary = {word: index for index, word in enumerate(text_models.WORDS)} | {
        f"w{i}": 100 + i for i in range(10**5)
    }
    content = json.dumps(text_models.tokenizer(model=wordpiece(vocab=vocabulary))).encode()
    assert TextTokenizer(content, 32).encode(["w99999"])[0].ids == [2, 100_099, 3]


def test_more_special_tokens_than_a_text_may_have() -> None:
    with pytest.raises(InvalidModel) as caught:
        TextTokenizer(json.dumps(text_models.tokenizer()).encode(), 1)
    assert caught.value.code == "model.tokenizer"


def test_a_long_text_is_cut_off() -> None:
    tokenizer = TextTokenizer(json.dumps(text_models.tokenizer()).encode(), 5)
    assert tokenizer.encode(["the patient " * 1000, "", "qq"]) == [
        ([2, 4, 6, 4, 3], [0] * 5),
        ([2, 3], [0, 0]),
        ([2, 1, 3], [0] * 3),
    ]


def test_nothing_that_fetches_is_imported() -> None:
    program = (
        "import sys, json, text_models\n"
        "text_models.session()\n"
        "print([name for name in ('huggingface_hub', 'requests', 'httpx', 'urllib3') if name in sys.modules])"
    )
    paths = {"PYTHONPATH": str(text_models.EXAMPLE.parents[1] / "tests" / "plugins")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=paths)
    assert done.stdout.strip() == "[]"
