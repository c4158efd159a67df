from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

# What a user of the client must not pay for, or need installed, when importing the package.
SERVER = {"onnxruntime", "prometheus_client", "starlette", "structlog", "uvicorn", "uvloop"}
DATABASE = {"alembic", "sqlalchemy", "sqlite3"}
HEAVY = {"ml_dtypes", "numpy", "onnx", "pandas", "pydantic", "rich", "sklearn", "torch", "typer"}
OWN = {"blindai.cli", "blindai.cloud", "blindai.custody", "blindai.demo", "blindai.enclave"}


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nimport json\nprint(json.dumps(sorted(sys.modules)))"
    # Measured without what measures: coverage brings modules of its own into every subprocess.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("unwanted", [SERVER, DATABASE, HEAVY, OWN], ids=["server", "database", "heavy", "own"])
def test_importing_the_package_stays_light(unwanted: set[str]) -> None:
    assert modules_after("import blindai") & unwanted == set()


def test_the_connection_does_not_need_the_server() -> None:
    assert (
        modules_after("import blindai\nblindai.Connection, blindai.AsyncConnection") & (SERVER | DATABASE | OWN)
        == set()
    )
