"""`blindai models`: upload, list and delete the models of an enclave, and let other accounts query them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from blindai.cli.console import out, print_json, reported
from blindai.cli.target import Account, Addr, Json, KeyFile, PolicyFile, Simulation, connect

if TYPE_CHECKING:
    from blindai.wire.cloud import ModelVisibility

app = typer.Typer(no_args_is_help=True, help="Upload, list, share and delete models.")

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
    with (
        reported(as_json=as_json),
        connect(addr, policy, api_key_file, simulation=simulation, model_id=model_id) as client,
    ):
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
    account: Account = None,
    addr: Addr = None,
    policy: PolicyFile = None,
    simulation: Simulation = False,
    api_key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """List the models of the enclave."""
    with (
        reported(as_json=as_json),
        connect(addr, policy, api_key_file, simulation=simulation, account=account) as client,
    ):
        models = client.models(ready=ready)
        if as_json:
            import msgspec

            print_json(msgspec.to_builtins(models))
            return
        if not models:
            out.print("no models; upload one with: blindai models upload FILE --id namespace/name")
            return
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        in_cloud = any(model.visibility for model in models)
        for column in ("MODEL", "VERSION", "STATE", *(["VISIBILITY"] if in_cloud else []), "REASON"):
            table.add_column(column)
        for model in models:
            visibility = [escape(model.visibility or "")] if in_cloud else []
            table.add_row(escape(model.name), model.version, model.state, *visibility, escape(model.reason))
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
    with (
        reported(as_json=as_json),
        connect(addr, policy, api_key_file, simulation=simulation, model_id=model_id) as client,
    ):
        client.delete_model(model_id, version=version)
        if as_json:
            print_json({"deleted": model_id, "version": version})
        else:
            what = model_id if version is None else f"{model_id} version {version}"
            out.print(f"[green]deleted[/] {escape(what)}")


@app.command()
def share(
    model_id: ModelId,
    accounts: Annotated[
        list[str], typer.Argument(metavar="ACCOUNT...", help="Who may query it; those of before may no more.")
    ],
    addr: Addr = None,
    policy: PolicyFile = None,
    simulation: Simulation = False,
    api_key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Let some other accounts of the cloud query a model."""
    with (
        reported(as_json=as_json),
        connect(addr, policy, api_key_file, simulation=simulation, model_id=model_id) as client,
    ):
        _show_visibility(model_id, client.set_visibility(model_id, "shared", shared_with=accounts), as_json=as_json)


@app.command()
def publish(
    model_id: ModelId,
    addr: Addr = None,
    policy: PolicyFile = None,
    simulation: Simulation = False,
    api_key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Let everybody query a model, also without a key. Its weights stay in the enclave."""
    with (
        reported(as_json=as_json),
        connect(addr, policy, api_key_file, simulation=simulation, model_id=model_id) as client,
    ):
        _show_visibility(model_id, client.set_visibility(model_id, "public"), as_json=as_json)


@app.command()
def private(
    model_id: ModelId,
    addr: Addr = None,
    policy: PolicyFile = None,
    simulation: Simulation = False,
    api_key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Let nobody but its own account query a model, as at the beginning."""
    with (
        reported(as_json=as_json),
        connect(addr, policy, api_key_file, simulation=simulation, model_id=model_id) as client,
    ):
        _show_visibility(model_id, client.set_visibility(model_id, "private"), as_json=as_json)


def _show_visibility(model_id: str, now: ModelVisibility, *, as_json: bool) -> None:
    if as_json:
        print_json({"name": model_id, "visibility": now.visibility, "shared_with": list(now.shared_with)})
        return
    accounts = f" with {', '.join(now.shared_with)}" if now.shared_with else ""
    out.print(f"{escape(model_id)} is [green]{now.visibility}[/]{escape(accounts)}")
