"""Tiny models that take text: BERT with random weights, as the example builds it, and a tokenizer of a few words."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import tarfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.enclave.text import TextSession, open_text
from blindai.wire.task import TASK_FILE, TOKENIZER_FILE
from blindai.wire.tensor import Tensor

EXAMPLE = Path(__file__).parents[2] / "examples" / "minilm"

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "a", "patient", "has", "no", "fever", "##ish", "and", "is", "well")
LABELS = ("negative", "neutral", "positive")
HEADS = 2
SIZE = 8


def example(name: str) -> Any:
    """A module of the example, which is no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@cache
def weights(labels: int = 0) -> Any:
    """Always the same."""
    generator = np.random.default_rng(6)
    return example("bert").random_weights(generator, words=len(WORDS), size=SIZE, layers=2, inner=16, labels=labels)


@cache
def model(labels: int = 0) -> bytes:
    bert = example("bert")
    content: bytes = bert.build(weights(labels), bert.Shape(HEADS)).SerializeToString()
    return content


def tokenizer(**changes: Any) -> dict[str, Any]:
    """A `tokenizer.json` as BERT's, with other members where `changes` say so."""
    special = {name: {"id": name, "ids": [WORDS.index(name)], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    single: list[dict[str, Any]] = [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ]
    return {
        "version": "1.0",
        "truncation": None,
        # As exporters leave it. The server pads nothing, whatever is said here.
        "padding": {
            "strategy": {"Fixed": 128},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": special,
        },
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: index for index, word in enumerate(WORDS)},
        },
        **changes,
    }


def files(task: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, bytes]:
    """The files of a bundle beside its model."""
    return {
        TASK_FILE: json.dumps(task or {"task": "embed", "max_tokens": 32}).encode(),
        TOKENIZER_FILE: json.dumps(tokenizer(**changes)).encode(),
    }


def classifier_files() -> dict[str, bytes]:
    return files({"task": "classify", "max_tokens": 32, "labels": LABELS})


def bundle(content: bytes, others: Mapping[str, bytes]) -> bytes:
    """The tar of an upload."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in {"model.onnx": content, **others}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def session(others: Mapping[str, bytes] | None = None, *, labels: int = 0, rows: int = 1) -> TextSession:
    """A loaded model."""
    return open_text(OnnxRuntimeEngine().load(model(labels), {}), others or files(), rows=rows)


def inputs(texts: list[str]) -> dict[str, Tensor]:
    """What `Session.run` takes."""
    data = np.empty(len(texts), dtype=object)
    data[:] = [text.encode() for text in texts]
    return {"text": Tensor("text", "BYTES", data)}
