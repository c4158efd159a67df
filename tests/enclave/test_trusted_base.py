"""What runs in the enclave stays small: every package loaded there is one more to trust."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import pkgutil, sys
import blindai.enclave
for module in pkgutil.walk_packages(blindai.enclave.__path__, "blindai.enclave."):
    __import__(module.name)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    output = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    return set(output.split())


def test_the_enclave_is_loaded(loaded: set[str]) -> None:
    assert {"blindai", "starlette", "uvicorn", "onnxruntime"} <= loaded


@pytest.mark.parametrize(
    "package", ["pydantic", "torch", "sqlalchemy", "fastapi", "requests", "httpx2", "typer", "onnx"]
)
def test_it_loads_nothing_it_does_not_need(loaded: set[str], package: str) -> None:
    assert package not in loaded
