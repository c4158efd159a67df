"""The leanest gRPC client: a request that was encoded beforehand, and an answer that is not decoded.

Runs in a peer's environment: `grpc_client.py STUBS TARGET TENSOR.bin`, STUBS being the module with its messages.
For each number on standard input it makes so many calls, and prints the nanoseconds of each as JSON.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

import grpc

METHOD = "/inference.GRPCInferenceService/ModelInfer"


def main(stubs: str, target: str, tensor: str) -> None:
    messages = importlib.import_module(stubs)
    payload = Path(tensor).read_bytes()
    request = messages.ModelInferRequest(
        model_name="tiny",
        inputs=[{"name": "x", "datatype": "FP32", "shape": [1, len(payload) // 4]}],
        raw_input_contents=[payload],
    ).SerializeToString()
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(target, options=options) as channel:
        infer = channel.unary_unary(METHOD)
        infer(request, wait_for_ready=True, timeout=30)
        print("ready", flush=True)
        for line in sys.stdin:
            taken = []
            for _ in range(int(line)):
                started = time.perf_counter_ns()
                infer(request)
                taken.append(time.perf_counter_ns() - started)
            print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:4])
