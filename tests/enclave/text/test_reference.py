"""The graph that the example builds, tokenizer and pooling included, against vectors that PyTorch has calculated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import text_models

REFERENCE = json.loads(Path(__file__).with_name("bert_vectors.json").read_text("utf-8"))


def test_the_same_vectors_as_the_reference() -> None:
    embedding, tokens = text_models.session().run(text_models.inputs(REFERENCE["texts"]))
    assert tokens.data.tolist() == [len(ids) for ids in REFERENCE["ids"]]
    assert np.abs(embedding.data - np.array(REFERENCE["vectors"])).max() < 1e-5


def test_weights_survive_their_file_format() -> None:
    bert = text_models.example("bert")
    weights = text_models.weights()
    read = bert.read_safetensors(bert.write_safetensors(weights))
    assert list(read) == list(weights)
    assert all(read[name].tobytes() == weights[name].tobytes() for name in weights)
