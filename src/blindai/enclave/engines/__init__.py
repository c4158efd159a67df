from __future__ import annotations

from typing import TYPE_CHECKING

from blindai.enclave.config import EngineName
from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from blindai.enclave.engine import Engine


def engine(name: EngineName, *, threads: int = 1) -> Engine:
    """An engine by its name in the configuration; imported only now, as each is an optional part of the install.

    Raises:
        ConfigurationError: `configuration.engine`, it is not installed.
    """
    try:
        if name is EngineName.ONNXRUNTIME:
            from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine

            return OnnxRuntimeEngine(threads=threads)
    except ImportError as error:
        raise _not_installed(name) from error
    raise _not_installed(name)


def _not_installed(name: EngineName) -> ConfigurationError:
    return ConfigurationError(
        f"the engine {name.value} is allowed by the configuration, but not installed",
        code="configuration.engine",
        hint=f"pip install 'blindai[server{',openvino' if name is EngineName.OPENVINO else ''}]'",
    )
