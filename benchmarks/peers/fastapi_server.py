"""FastAPI with one model on ONNX Runtime, as most tutorials have it, but with numbers as JSON parsed by its fast path.

Runs in an environment of its own: `fastapi_server.py MODEL.onnx HTTP_PORT GRPC_PORT`; it has no gRPC. No TLS.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Annotated

import numpy as np
import onnxruntime
import uvicorn
from fastapi import Body, FastAPI, Request


def main(model: str, port: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    kind = np.int64 if "int64" in given.type else np.float32
    app = FastAPI()

    # A plain function would run in a thread: better for long runs, worse for a run of microseconds.
    async def quick(request: Request) -> dict[str, list[list[float]]]:
        values = np.asarray((await request.json())["x"], kind)
        return {"y": session.run(None, {given.name: values})[0].tolist()}

    def long(x: Annotated[list[list[float]], Body(embed=True)]) -> dict[str, list[list[float]]]:
        return {"y": session.run(None, {given.name: np.asarray(x, kind)})[0].tolist()}

    app.post("/predict")(quick)
    app.post("/predict-in-thread")(long)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        http="httptools",
        loop="uvloop",
        log_level=logging.CRITICAL,
        access_log=False,
        timeout_keep_alive=600,  # it idles while others are measured
    )
    print(json.dumps({"port": port}), flush=True)
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
