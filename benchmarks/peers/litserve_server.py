"""LitServe with one model on ONNX Runtime. No TLS.

Runs in an environment of its own: `litserve_server.py MODEL.onnx HTTP_PORT GRPC_PORT [BATCH]`; it has no gRPC.
"""

import json
import logging
import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime
from fastapi import Request


class Tiny(litserve.LitAPI):
    """The model, in the worker process that LitServe gives every model."""

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__(api_path="/predict", **options)
        self._model = model

    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
        (given,) = self._session.get_inputs()
        self._name = given.name
        self._kind = np.int64 if "int64" in given.type else np.float32

    def decode_request(self, request: Request) -> Any:
        # Of a request without a type of its own it hands over the parsed JSON.
        return np.asarray(request["x"], self._kind)

    def batch(self, inputs: list[Any]) -> Any:
        return np.concatenate(inputs)

    def predict(self, x: Any) -> Any:
        return self._session.run(None, {self._name: x})[0]

    def unbatch(self, output: Any) -> list[Any]:
        return [row[None] for row in output]

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"y": output.tolist()}


def main(model: str, port: int, batch: int) -> None:
    logging.disable(logging.INFO)
    options = {"max_batch_size": batch, "batch_timeout": 0.01} if batch > 1 else {}
    server = litserve.LitServer(Tiny(model, **options), accelerator="cpu", workers_per_device=1, timeout=60)
    print(json.dumps({"port": port}), flush=True)
    server.run(host="127.0.0.1", port=port, log_level="critical", generate_client_file=False, num_api_servers=1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[4]) if len(sys.argv) > 4 else 1)
