"""Confidential AI that people can check for themselves.

    import blindai

    with blindai.Connection(addr="https://host:9443") as client:
        client.upload_model("model.onnx", model_id="acme/model")
        prediction = client.predict("acme/model", batch)

Names are loaded when they are first used, so that `import blindai` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blindai.attestation.policy import Policy
    from blindai.attestation.result import AttestationResult
    from blindai.client.async_connection import AsyncConnection
    from blindai.client.connection import Connection, connect
    from blindai.client.openai import async_openai_client, openai_client
    from blindai.client.prediction import Output, Prediction
    from blindai.client.receipt import Receipt
    from blindai.errors import (
        AttestationError,
        AuthenticationError,
        BlindAIError,
        BudgetExhausted,
        ConfigurationError,
        InvalidInput,
        InvalidModel,
        LeaseExpired,
        LeaseStopped,
        ModelNotFound,
        PermissionDenied,
        QuotaExceeded,
        ReceiptError,
        Unavailable,
    )

__version__ = "0.1.0"

_HOMES = {
    "blindai.attestation.policy.policy": ("Policy",),
    "blindai.attestation.result": ("AttestationResult",),
    "blindai.client.async_connection": ("AsyncConnection",),
    "blindai.client.connection": ("Connection", "connect"),
    "blindai.client.openai": ("async_openai_client", "openai_client"),
    "blindai.client.prediction": ("Output", "Prediction"),
    "blindai.client.receipt": ("Receipt",),
    "blindai.errors": (
        "AttestationError",
        "AuthenticationError",
        "BlindAIError",
        "BudgetExhausted",
        "ConfigurationError",
        "InvalidInput",
        "InvalidModel",
        "LeaseExpired",
        "LeaseStopped",
        "ModelNotFound",
        "PermissionDenied",
        "QuotaExceeded",
        "ReceiptError",
        "Unavailable",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncConnection",
    "AttestationError",
    "AttestationResult",
    "AuthenticationError",
    "BlindAIError",
    "BudgetExhausted",
    "ConfigurationError",
    "Connection",
    "InvalidInput",
    "InvalidModel",
    "LeaseExpired",
    "LeaseStopped",
    "ModelNotFound",
    "Output",
    "PermissionDenied",
    "Policy",
    "Prediction",
    "QuotaExceeded",
    "Receipt",
    "ReceiptError",
    "Unavailable",
    "__version__",
    "async_openai_client",
    "connect",
    "openai_client",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'blindai' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
