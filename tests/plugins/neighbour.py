"""Somebody else on the same enclave, with a model of their own, who asks all the time and checks each answer.

It is a process of its own, so that what tests do in theirs does not slow it down.
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection as Pipe
from typing import NamedTuple, Self

import numpy as np
import onnx

from blindai import BlindAIError, Connection
from enclave_server import node_model

MODEL = "neighbour/scorer"
PAUSE_SECONDS = 0.002
PATIENCE_SECONDS = 60.0


class Seen(NamedTuple):
    """What it saw since it was asked last.

    Attributes:
        milliseconds: of each request that was answered rightly.
        wrong: the others, in words.
    """

    milliseconds: list[float]
    wrong: list[str]


class Neighbour:
    """A context manager; `seen` tells how it went since the last call."""

    def __init__(self, address: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_live, args=(address, theirs), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        assert self._receive() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def seen(self) -> Seen:
        self._pipe.send("tell")
        told = self._receive()
        assert isinstance(told, Seen)
        return told

    def _receive(self) -> object:
        assert self._pipe.poll(PATIENCE_SECONDS), "the neighbour does not answer"
        return self._pipe.recv()


def _live(address: str, pipe: Pipe) -> None:
    weights = np.random.default_rng(3).standard_normal((64, 8)).astype(np.float32)
    random = np.random.default_rng(5)
    seen = Seen([], [])
    with Connection(address, simulation=True, progress=False) as connection:
        model = node_model(onnx.helper.make_node("MatMul", ["x", "w"], ["y"]), w=weights)
        connection.upload_model(model, model_id=MODEL)
        pipe.send("ready")
        while True:
            values = random.standard_normal((1, 64)).astype(np.float32)
            started = time.perf_counter()
            try:
                answer = connection.predict(MODEL, values).output[0].as_numpy()
            except BlindAIError as error:
                seen.wrong.append(f"{error.code}: {error.message}")
                continue
            took = (time.perf_counter() - started) * 1e3
            if np.allclose(answer, values @ weights, rtol=1e-4, atol=1e-4):
                seen.milliseconds.append(took)
            else:
                seen.wrong.append(f"{answer} for {values}")
            if pipe.poll():
                pipe.recv()
                pipe.send(seen)
                seen = Seen([], [])
            time.sleep(PAUSE_SECONDS)
