"""Triton Inference Server with one model in its Python backend. No TLS.

The server's program and its backend come with the package nvidia-pytriton; what that package adds to them is not used.
Runs in an environment of its own: `triton_server.py MODEL.onnx HTTP_PORT GRPC_PORT [BATCH]`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

import onnxruntime

_CONFIG = """
backend: "python"
max_batch_size: {batch}
input [{{ name: "{input}" data_type: {kind} dims: [{dims}-1] }}]
output [{{ name: "{output}" data_type: TYPE_FP32 dims: [{dims}2] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
parameters {{ key: "model" value: {{ string_value: "{model}" }} }}
parameters {{ key: "packages" value: {{ string_value: "{packages}" }} }}
{more}
"""


def main(model: str, port: int, grpc_port: int, batch: int) -> None:
    packages = Path(sysconfig.get_path("purelib"))
    triton = packages / "pytriton" / "tritonserver"
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    repository = Path(tempfile.mkdtemp(prefix="triton-"))
    folder = repository / "tiny"
    (folder / "1").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("triton_model.py"), folder / "1" / "model.py")
    (folder / "config.pbtxt").write_text(
        _CONFIG.format(
            batch=batch if batch > 1 else 0,
            input=given.name,
            kind="TYPE_INT64" if "int64" in given.type else "TYPE_FP32",
            output=made.name,
            dims="" if batch > 1 else "-1, ",
            model=model,
            packages=packages,
            more="dynamic_batching { }" if batch > 1 else "",
        )
    )
    # The backend finds the interpreter's part beside itself alone.
    stub = triton / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    beside = triton / "backends" / "python" / "triton_python_backend_stub"
    if not beside.exists():
        shutil.copy(stub / beside.name, beside)
    libraries = [packages / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR"))]
    print(json.dumps({"port": port, "grpc_port": grpc_port}), flush=True)
    program = triton / "bin" / "tritonserver"
    arguments = [
        f"--model-repository={repository}",
        f"--backend-directory={triton / 'backends'}",
        f"--http-port={port}",
        f"--grpc-port={grpc_port}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--allow-metrics=false",
        "--log-info=false",
        "--exit-timeout-secs=1",
    ]
    environment = os.environ | {"LD_LIBRARY_PATH": ":".join(map(str, libraries))}
    os.execve(program, [str(program), *arguments], environment)  # noqa: S606 - the program is the peer itself


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 1)
