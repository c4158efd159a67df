"""MLServer with one model on ONNX Runtime, tuned as its documentation advises for small models. No TLS.

Runs in an environment of its own: `mlserver_server.py MODEL.onnx HTTP_PORT GRPC_PORT BATCH quick|long`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys

import onnxruntime
import uvloop
from mlserver import MLModel, MLServer
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters, ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse

LONG = sys.argv[5:6] == ["long"]


class Tiny(MLModel):
    """The model, run on the event loop: workers in other processes would only add to a run of microseconds.

    Longer runs go to a thread.
    """

    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        uri = self.settings.parameters.uri
        self._session = onnxruntime.InferenceSession(uri, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feeds = {one.name: NumpyCodec.decode_input(one) for one in payload.inputs}
        if LONG:
            (result,) = await asyncio.to_thread(self._session.run, None, feeds)
        else:
            (result,) = self._session.run(None, feeds)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", result)])


async def main(model: str, http_port: int, grpc_port: int, batch: int) -> None:
    logging.disable(logging.INFO)
    settings = Settings(
        debug=False,  # no access log
        parallel_workers=0,
        host="127.0.0.1",
        http_port=http_port,
        grpc_port=grpc_port,
        grpc_max_message_length=64 << 20,
        metrics_endpoint=None,
        gzip_enabled=False,
    )
    # It idles while others are measured; there is no public setting for this.
    settings._custom_rest_server_settings = {"timeout_keep_alive": 600}  # noqa: SLF001 - as said above
    server = MLServer(settings)
    batching = {"max_batch_size": batch, "max_batch_time": 0.01} if batch > 1 else {}
    parameters = ModelParameters(uri=model)
    tiny = ModelSettings(name="tiny", implementation=Tiny, parameters=parameters, **batching)
    serving = asyncio.create_task(server.start([tiny]))
    await asyncio.sleep(0.5)
    print(json.dumps({"port": http_port, "grpc_port": grpc_port}), flush=True)
    await serving


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
