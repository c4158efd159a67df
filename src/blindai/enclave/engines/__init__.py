"""What models run on: ONNX Runtime, and OpenVINO where it is installed and allowed.

Nothing that runs here reports to anybody. ONNX Runtime would: since 1.29 it writes an identifier of the machine and a
file of events to the user's folder, and sends them to its maker. Its function that forbids it comes too late for what
it says of the process itself; a variable of the environment does not, if it is there before ONNX Runtime is. So this
package sets it, and whoever imports ONNX Runtime imports this package first.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from blindai.enclave.config import EngineName
from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from blindai.enclave.engine import Engine

os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def engine(name: EngineName, *, threads: int = 1, lanes: int = 1, precision: str = "float32") -> Engine:
    """An engine by its name in the configuration; imported only now, as each is an optional part of the install.

    Args:
        threads: of one run.
        lanes: runs at once that its sessions will be asked for. Only OpenVINO wants to know.
        precision: `float32`, all bits that a model says, or `bfloat16`. Only OpenVINO has another than the first.

    Raises:
        ConfigurationError: `configuration.engine`, it is not installed.
    """
    try:
        if name is EngineName.OPENVINO:
            from blindai.enclave.engines.openvino import OpenVinoEngine

            return OpenVinoEngine(threads=threads, lanes=lanes, precision=precision)
        from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(threads=threads)
    except ImportError as error:
        extra = "server,openvino" if name is EngineName.OPENVINO else "server"
        raise ConfigurationError(
            f"the engine {name.value} is allowed by the configuration, but not installed",
            code="configuration.engine",
            hint=f"pip install 'blindai[{extra}]'",
        ) from error
