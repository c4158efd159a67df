"""Texts to vectors and labels: the SDK, with an enclave whose models run in confined processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import blindai
import text_models
from blindai.attestation.policy import Policy
from blindai.client.connection import Connection
from blindai.client.text import TEXTS_PER_REQUEST, Classification
from blindai.errors import InvalidInput, QuotaExceeded
from enclave_server import RunningServer

MODEL, MOOD = "acme/minilm", "acme/mood"
TEXTS = ["the patient is well", "no fever", "the patient has no fever and is well"]
MANY = [" ".join([text_models.WORDS[4 + i % 9]] * (1 + i % 5)) for i in range(2 * TEXTS_PER_REQUEST + 7)]
"""More than go in two requests, of several lengths."""


def folder(path: Path, labels: int = 0) -> Path:
    """A bundle as `examples/minilm/export.py` leaves it."""
    files = text_models.classifier_files() if labels else text_models.files()
    for name, content in {"model.onnx": text_models.model(labels), **files}.items():
        (path / name).write_bytes(content)
    return path


@pytest.fixture(scope="module")
def server(
    start_enclave: Callable[..., RunningServer], policy: Policy, tmp_path_factory: pytest.TempPathFactory
) -> RunningServer:
    running = start_enclave()
    with Connection(f"https://127.0.0.1:{running.port}", policy=policy) as connection:
        connection.upload_model(folder(tmp_path_factory.mktemp("minilm")), model_id=MODEL)
        connection.upload_model(folder(tmp_path_factory.mktemp("mood"), 3), model_id=MOOD)
    return running


@pytest.fixture
def connection(server: RunningServer, policy: Policy) -> Any:
    with Connection(f"https://127.0.0.1:{server.port}", policy=policy) as connection:
        yield connection


def in_thread(texts: list[str]) -> Any:
    """The vectors that the model makes in this very process."""
    return text_models.session().run(text_models.inputs(texts))[0].data


def test_a_confined_process_makes_the_very_same_bits(connection: Connection) -> None:
    assert connection.embed(MODEL, TEXTS).tobytes() == in_thread(TEXTS).tobytes()


def test_one_text(connection: Connection) -> None:
    assert connection.embed(MODEL, TEXTS[0]).tobytes() == in_thread(TEXTS[:1]).tobytes()


def test_many_texts_go_in_several_requests_and_stay_in_order(server: RunningServer, connection: Connection) -> None:
    (version,) = (version for version in server.application.repository if str(version.id) == MODEL)
    before = version.statistics.successes
    vectors = connection.embed(MODEL, MANY)
    assert version.statistics.successes == before + 3
    assert vectors.shape == (len(MANY), text_models.SIZE)
    assert vectors.tobytes() == in_thread(MANY).tobytes()


def test_labels(connection: Connection) -> None:
    results = connection.classify(MOOD, MANY)
    assert len(results) == len(MANY)
    scores = text_models.session(text_models.classifier_files(), labels=3).run(text_models.inputs(MANY), ["scores"])
    for result, row in zip(results, scores[0].data, strict=True):
        assert isinstance(result, Classification)
        assert list(result.scores) == list(text_models.LABELS)
        assert list(result.scores.values()) == row.tolist()
        assert (result.label, result.score) == (text_models.LABELS[int(row.argmax())], float(row.max()))


def test_the_same_on_asyncio(server: RunningServer, policy: Policy, connection: Connection) -> None:
    async def main() -> tuple[Any, list[Classification]]:
        address = f"https://127.0.0.1:{server.port}"
        async with blindai.AsyncConnection(address, policy=policy) as client:
            return await client.embed(MODEL, MANY), await client.classify(MOOD, MANY)

    vectors, results = asyncio.run(main())
    assert vectors.tobytes() == in_thread(MANY).tobytes()
    assert results == connection.classify(MOOD, MANY)


def test_text_through_predict(connection: Connection) -> None:
    outputs = {output.name: output.as_numpy() for output in connection.predict(MODEL, TEXTS).output}
    assert outputs["embedding"].tobytes() == in_thread(TEXTS).tobytes()
    assert outputs["tokens"].tolist() == [6, 4, 10]


def test_refused_texts_do_not_end_the_process(connection: Connection) -> None:
    with pytest.raises(QuotaExceeded) as caught:
        connection.predict(MODEL, ["a"] * 2049)
    assert caught.value.code == "quota.texts"
    with pytest.raises(QuotaExceeded) as caught:
        connection.embed(MODEL, "a" * 200_000)
    assert caught.value.code == "quota.text_size"
    with pytest.raises(InvalidInput) as wrong:
        connection.embed(MODEL, [["a"], ["b"]])  # type: ignore[list-item]  # lists of lists
    assert wrong.value.code == "input.shape"
    assert len(connection.embed(MODEL, "a")) == 1


def test_a_folder_without_its_task(connection: Connection, tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "blindai-task.json").write_text(json.dumps({"task": "dance"}))
    with pytest.raises(blindai.InvalidModel) as caught:
        connection.upload_model(tmp_path, model_id="acme/bad")
    assert caught.value.code == "model.task_file"


def test_metadata_shows_what_the_trial_measured(connection: Connection) -> None:
    trial = connection.model(MODEL).trial
    assert trial is not None
    assert trial.engine == "onnxruntime"
    assert trial.max_batch >= 1
    assert trial.run_us > 0
    assert [candidate.engine for candidate in trial.candidates][:1]


def test_a_panic_of_the_tokenizers_library_is_a_refusal_and_its_words_go_nowhere(
    connection: Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    model = {
        "type": "BPE",
        "vocab": {"aloof": 0, "b": 1},
        "merges": [["aloof", "b"]],
        "continuing_subword_prefix": "#" * 9,
    }
    files = text_models.files(model=model)
    with pytest.raises(blindai.InvalidModel) as caught:
        connection.upload_model(
            text_models.model(), model_id="acme/bad", tokenizer=files["tokenizer.json"], task="embed"
        )
    assert caught.value.code == "model.tokenizer"
    written = capfd.readouterr()
    assert "panicked" not in written.out + written.err
    assert "aloof" not in written.out + written.err
