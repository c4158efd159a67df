"""KServe's model server with one model on ONNX Runtime. No TLS.

Runs in an environment of its own: `kserve_server.py MODEL.onnx HTTP_PORT GRPC_PORT BATCH quick|long`. BATCH is not
heeded:
its batching needs an agent beside it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Tiny(Model):
    """The model, run on the event loop; in a thread where its runs are long."""

    def __init__(self, path: str, *, long: bool) -> None:
        super().__init__("tiny")
        self._long = long
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.ready = True

    async def predict(self, payload: InferRequest, *_: Any, **__: Any) -> InferResponse:
        feeds = {one.name: one.as_numpy() for one in payload.inputs}
        if self._long:
            (result,) = await asyncio.to_thread(self._session.run, None, feeds)
        else:
            (result,) = self._session.run(None, feeds)
        output = InferOutput("y", list(result.shape), "FP32")
        output.set_data_from_numpy(result, binary_data=True)
        return InferResponse(payload.id or "", "tiny", [output])


def main(model: str, http_port: int, grpc_port: int, *, long: bool) -> None:
    logging.disable(logging.INFO)
    server = ModelServer(
        http_port=http_port,
        grpc_port=grpc_port,
        workers=1,
        enable_latency_logging=False,
        event_loop="uvloop",
        timeout_keep_alive=600,  # it idles while others are measured
    )
    print(json.dumps({"port": http_port, "grpc_port": grpc_port}), flush=True)
    server.start([Tiny(model, long=long)])


if __name__ == "__main__":
    arguments = sys.argv[1:6]
    sys.argv[1:] = []  # KServe reads the command line too
    main(arguments[0], int(arguments[1]), int(arguments[2]), long=arguments[4:] == ["long"])
