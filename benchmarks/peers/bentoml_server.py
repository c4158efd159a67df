"""BentoML with one model on ONNX Runtime: a service with an array as its input, one worker. No TLS.

Runs in an environment of its own: `bentoml_server.py MODEL.onnx HTTP_PORT GRPC_PORT`; it has no gRPC any more.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(
    workers=1,
    traffic={"timeout": 60, "concurrency": 64},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Tiny:
    """The model, run on the event loop."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = os.environ["PEER_MODEL"]
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        (given,) = self._session.get_inputs()
        self._name = given.name
        self._kind = np.int64 if "int64" in given.type else np.float32

    @bentoml.api(route="/predict")
    async def predict(self, x: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._name: x.astype(self._kind, copy=False)})[0]

    @bentoml.api(route="/predict-in-thread")
    def long(self, x: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._name: x.astype(self._kind, copy=False)})[0]

    @bentoml.api(route="/predict-batched", batchable=True, batch_dim=0, max_batch_size=16, max_latency_ms=60_000)
    def batched(self, x: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._name: x.astype(self._kind, copy=False)})[0]


def main(model: str, port: int) -> None:
    print(json.dumps({"port": port}), flush=True)
    environment = os.environ | {"PEER_MODEL": model, "BENTOML_DO_NOT_TRACK": "True"}
    program = Path(sys.executable).with_name("bentoml")
    here = Path(__file__)
    arguments = [
        "serve",
        f"{here.stem}:Tiny",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--working-dir",
        str(here.parent),
    ]
    os.execve(program, [str(program), *arguments], environment)  # noqa: S606 - the program is the peer itself


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
