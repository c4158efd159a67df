"""`blindai models`: upload, list and delete the models of an enclave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from blindai.cli.console import out, print_json, reported
from blindai.cli.target import Addr, Json, KeyFile, PolicyFile, Simulation, connect

app = typer.Typer(no_args_is_help=True, help="Upload, list and delete models.")

ModelId = Annotated[str, typer.Argument(metavar="MODEL", help="namespace/name, as in acme/resnet18.")]
Version = Annotated[str | None, typer.Option("--version", metavar="N", help="A version; the default is said below.")]


@app.command()
def upload(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="An ONNX file; its external data is found beside it. Or a folder with model.onnx, tokenizer.json and "
            "blindai-task.json, for a model that takes text.",
        ),
    ],
    model_id: Annotated[str, typer.Option("--id", metavar="MODEL", help="namespace/name, as in acme/resnet18.")],
    version: Version = None,
    addr: Addr = None,
    policy: PolicyFile = None,
    simulation: Simulation = False,
    api_key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Attest the enclave, then upload a model to it. Without --version it becomes the next version."""
    with reported(as_json=as_json), connect(addr, policy, api_key_file, simulation=simulation) as client:
        uploaded = client.upload_model(file, model_id=model_id, version=version, progress=False if as_json else None)
        if as_json:
            import msgspec

            print_json(msgspec.to_builtins(uploaded))
            return
        out.print(f"[green]uploaded[/] {escape(uploaded.name)} version {uploaded.version}, {uploaded.size:,} bytes")
        for title, tensors in (("inputs", uploaded.inputs), ("outputs", uploaded.outputs)):
            out.print(f"  {title:<8} {escape(', '.join(map(str, tensors)))}")


@app.command(name="list")
def list_models(
    ready: Annotated[bool, typer.Option("--ready", help="Only those that can answer now.")] = False,
    addr: Addr = None,
    policy: PolicyFile = None,
    simulation: Simulation = False,
    api_key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """List the models of the enclave."""
    with reported(as_json=as_json), connect(addr, policy, api_key_file, simulation=simulation) as client:
        models = client.models(ready=ready)
        if as_json:
            import msgspec

            print_json(msgspec.to_builtins(models))
            return
        if not models:
            out.print("no models; upload one with: blindai models upload FILE --id namespace/name")
            return
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("MODEL", "VERSION", "STATE", "REASON"):
            table.add_column(column)
        for model in models:
            table.add_row(escape(model.name), model.version, model.state, escape(model.reason))
        out.print(table)


@app.command()
def delete(
    model_id: ModelId,
    version: Version = None,
    addr: Addr = None,
    policy: PolicyFile = None,
    simulation: Simulation = False,
    api_key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Delete a model. Without --version, all its versions."""
    with reported(as_json=as_json), connect(addr, policy, api_key_file, simulation=simulation) as client:
        client.delete_model(model_id, version=version)
        if as_json:
            print_json({"deleted": model_id, "version": version})
        else:
            what = model_id if version is None else f"{model_id} version {version}"
            out.print(f"[green]deleted[/] {escape(what)}")
