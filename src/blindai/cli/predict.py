"""`blindai predict`: one prediction from the command line."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from blindai.cli.console import err, out, print_json, reported
from blindai.cli.target import Addr, Json, KeyFile, PolicyFile, Simulation, connect, open_input
from blindai.errors import InvalidInput, harmless

if TYPE_CHECKING:
    from blindai.client.prediction import Output, Prediction

# What a person reads on a terminal; --json prints every value.
_SHOWN_VALUES = 12


def predict(
    model_id: Annotated[str, typer.Argument(metavar="MODEL", help="namespace/name, as in acme/resnet18.")],
    inputs: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help=".npy; .npz by input name; .csv; .json: a list, or an object by input name; '-' is JSON.",
        ),
    ],
    version: Annotated[
        str | None, typer.Option("--version", metavar="N", help="A version; the newest without it.")
    ] = None,
    wait_for_budget: Annotated[
        float | None,
        typer.Option(
            "--wait-for-budget",
            metavar="SECONDS",
            help="For a model on loan: wait so long for its custodian to give more budget.",
        ),
    ] = None,
    receipt: Annotated[
        Path | None,
        typer.Option(
            "--receipt", metavar="FILE", help="Have the enclave sign the answer, and save that for `blindai audit`."
        ),
    ] = None,
    addr: Addr = None,
    policy: PolicyFile = None,
    simulation: Simulation = False,
    api_key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Attest the enclave, then run a model on the data in a file."""
    with reported(as_json=as_json):
        values = read_inputs(inputs)
        _require_new(receipt)
        with connect(addr, policy, api_key_file, simulation=simulation, model_id=model_id) as client:
            prediction = client.predict(
                model_id, values, version=version, wait_for_budget=wait_for_budget, sign=receipt is not None
            )
        if receipt is not None and prediction.receipt is not None:
            prediction.receipt.save(receipt)
            err.print(f"receipt saved to {escape(str(receipt))}")
        if as_json:
            print_json(_fields(prediction))
            return
        out.print(f"{escape(harmless(prediction.model))} version {escape(harmless(prediction.version))}")
        for output in prediction.output:
            line = f"  {output.name}  {output.datatype} {list(output.shape)}  {_shown(output)}"
            out.print(harmless(line), markup=False)


def read_inputs(path: Path) -> Any:
    """What the file holds, as `Connection.predict` takes it.

    Raises:
        InvalidInput: `input.file`.
    """
    import numpy as np

    try:
        with open_input(path) as file:
            data = file.read()
        match path.suffix.lower():
            case ".npy":
                return np.load(io.BytesIO(data), allow_pickle=False)
            case ".npz":
                with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                    return dict(arrays)
            case ".csv":
                return np.loadtxt(io.BytesIO(data), delimiter=",", ndmin=2).tolist()
            case _:
                return json.loads(data)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput(
            f"the input cannot be read from {path}: {error}",
            code="input.file",
            hint="give a .npy, .npz, .csv or .json file, or '-' for JSON on standard input",
        ) from error


def _require_new(receipt: Path | None) -> None:
    """Before anything is sent: a receipt cannot be had again."""
    if receipt is not None and receipt.exists():
        from blindai.channel.saved_evidence import already_there

        raise already_there(receipt)


def _fields(prediction: Prediction) -> dict[str, Any]:
    return {
        "model": prediction.model,
        "version": prediction.version,
        "simulated": prediction.attestation is not None and prediction.attestation.simulated,
        "outputs": [
            {
                "name": output.name,
                "datatype": output.datatype,
                "shape": list(output.shape),
                "data": _plain(output.as_flat()),
            }
            for output in prediction.output
        ],
    }


def _plain(values: list[Any]) -> list[Any]:
    return [_plain_value(value) for value in values]


def _plain_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float) and not math.isfinite(value):
        # JSON has no such numbers; these are the names that ProtoJSON gives them.
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _shown(output: Output) -> str:
    values = _plain(output.as_flat())
    text = ", ".join(f"{value:.6g}" if isinstance(value, float) else str(value) for value in values[:_SHOWN_VALUES])
    return text if len(values) <= _SHOWN_VALUES else f"{text}, ... {len(values)} values; --json prints all"
