"""`blindai custodian seal`: seal a model with a key of its own, without a custodian's database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from blindai.cli.console import out, print_json, reported
from blindai.cli.target import Json
from blindai.errors import ConfigurationError


def seal(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file; its external data is found beside it.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the sealed model goes.")],
    key_file: Annotated[
        Path,
        typer.Option("--key-file", metavar="FILE", help="A new file for the key, which only you can read. Keep it."),
    ],
    as_json: Json = False,
) -> None:
    """Seal a model, so that it can be shipped by any means. `lease create` does the same and keeps the key itself."""
    from blindai.client.model_file import ModelBody
    from blindai.client.progress import upload_progress
    from blindai.crypto.wipe import wipe
    from blindai.custody import sealing

    with reported(as_json=as_json):
        body = ModelBody.open(model)
        key = sealing.new_data_key()
        try:
            _write_key(key_file, key)
            try:
                with upload_progress(body, output.name, enabled=False if as_json else None) as chunks:
                    sealed = sealing.seal(
                        chunks,
                        size=body.content_length,
                        model_digest=body.sha256.hex(),
                        content_type=body.content_type,
                        target=output,
                        key=key,
                    )
            except BaseException:
                key_file.unlink()  # the key of nothing
                raise
        finally:
            wipe(key)
        header = sealed.header
        if as_json:
            print_json(
                {
                    "sealed": str(output),
                    "bytes": header.sealed_bytes,
                    "key_file": str(key_file),
                    "model_digest": header.model_digest,
                    "model_bytes": header.size,
                    "content_type": header.content_type,
                    "files": body.files,
                }
            )
            return
        out.print(f"[green]sealed[/] {escape(str(output))}, {header.sealed_bytes:,} bytes")
        out.print(f"  model    {header.model_digest}, {header.size:,} bytes in {len(body.files)} file(s)")
        out.print(f"  key      {escape(str(key_file))}; without it nobody can open the model")


def _write_key(path: Path, key: bytearray) -> None:
    """The key in hex, in a file that did not exist before."""
    from blindai.crypto import secret_file

    try:
        made = secret_file.create(path, key.hex().encode() + b"\n")
    except OSError as error:
        message = f"the key file {path} cannot be written: {error.strerror or error}"
        raise ConfigurationError(message, code="configuration.output") from error
    if not made:
        raise ConfigurationError(
            f"the key file {path} exists",
            code="configuration.output",
            hint="a key is not overwritten: move the file away first",
        )
