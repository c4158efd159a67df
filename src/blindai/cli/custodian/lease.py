"""`blindai custodian lease`: lend a model, and look at what was lent."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape

from blindai.cli.console import err, out
from blindai.cli.custodian import pictures
from blindai.cli.custodian.office import Office, command
from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from blindai.attestation.policy import Policy
    from blindai.custody.sealing import SealedModel
    from blindai.custody.views import Lease

app = typer.Typer(no_args_is_help=True, help="Lend a model, and look at what was lent.")

LeaseArgument = Annotated[str, typer.Argument(metavar="LEASE", help="Its id, as `lease list` shows it.")]

_MODEL_SUFFIX: Final = ".sealed"


@app.command()
@command("decide")
def create(
    office: Office,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call the lease.")],
    model: Annotated[
        Path, typer.Option("--model", metavar="FILE", help="The ONNX file; its external data is found beside it.")
    ],
    model_id: Annotated[str, typer.Option("--model-id", metavar="MODEL", help="namespace/name, as consumers call it.")],
    policy: Annotated[
        Path, typer.Option("--policy", metavar="FILE", help="The manifest by which enclaves are appraised.")
    ],
    budget: Annotated[int, typer.Option("--budget", metavar="N", help="Queries that may be made in all.")],
    borrower: Annotated[str, typer.Option("--borrower", metavar="NAME", help="Who runs the enclave.")] = "",
    consumer: Annotated[
        list[str] | None,
        typer.Option(
            "--consumer", metavar="NAME[=N]", help="Who may query, with a budget of their own; may be repeated."
        ),
    ] = None,
    open_to_anyone: Annotated[
        bool, typer.Option("--open", help="No consumers and no tokens: whoever reaches the enclave may query.")
    ] = False,
    address: Annotated[
        str, typer.Option("--address", metavar="HOST:PORT", help="Where the borrower's enclave finds this custodian.")
    ] = "127.0.0.1:9444",
    soft: Annotated[
        float | None, typer.Option("--soft", metavar="SECONDS", help="Without a renewal, no query starts after this.")
    ] = None,
    ttl: Annotated[
        float | None, typer.Option("--ttl", metavar="SECONDS", help="Without a renewal, the model is wiped after this.")
    ] = None,
    max_instances: Annotated[
        int, typer.Option("--max-instances", metavar="N", help="Enclaves that may serve at once.")
    ] = 1,
    approvals: Annotated[
        int, typer.Option("--approvals", metavar="N", help="Operators who must agree to a resume or a raise.")
    ] = 1,
    tranche_max: Annotated[
        int | None,
        typer.Option("--tranche-max", metavar="N", help="Queries of one consumer that one enclave may hold at once."),
    ] = None,
    any_chip: Annotated[
        bool, typer.Option("--any-chip", help="Accept a policy that does not list the borrower's processors.")
    ] = False,
) -> None:
    """Seal a model with a fresh key, and lend it. Prints what the borrower and the consumers need; tokens only once."""
    from blindai.attestation.policy import Policy
    from blindai.crypto.wipe import wipe
    from blindai.custody import terms
    from blindai.custody.sealing import new_data_key

    rules = Policy.load(policy)
    _require_chips(rules, any_chip=any_chip)
    consumers = _consumers(consumer or [])
    if not consumers and not open_to_anyone:
        raise ConfigurationError(
            "nobody may query this model",
            code="lease.consumers",
            hint="name those who may: --consumer NAME=N; or let anyone: --open",
        )
    key = new_data_key()
    target = office.custodian.place.artefacts / f"{secrets.token_hex(16)}{_MODEL_SUFFIX}"
    try:
        settings: dict[str, Any] = {
            "name": name,
            "borrower": borrower or name,
            "model_id": model_id,
            "policy": rules.text,
            "budget": budget,
            "consumers": consumers,
            "open_to_anyone": open_to_anyone,
            "soft_ms": _milliseconds(soft, terms.DEFAULT_SOFT_MS),
            "ttl_ms": _milliseconds(ttl, terms.DEFAULT_TTL_MS),
            "max_instances": max_instances,
            "approvals": approvals,
            "tranche_max": terms.DEFAULT_TRANCHE if tranche_max is None else tranche_max,
            "any_chip": any_chip or rules.allow_simulated,
            "artefact": target,
        }
        # Everything is judged before the model is read.
        terms.Terms(model_digest="0" * 64, **settings)
        sealed = _sealed(model, target, key, progress=not office.as_json)
        agreed = terms.Terms(model_digest=sealed.header.model_digest, **settings)
        lease = office.ledger.create(agreed, model_key=bytes(key), by=office.by)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        wipe(key)
    tokens = {one: office.ledger.issue_token(lease.id, one, by=office.by) for one in consumers}
    _tell(office, lease, address, target, tokens)


@app.command(name="list")
@command()
def list_leases(office: Office) -> None:
    """List the leases, the newest first."""
    leases = office.ledger.leases()
    office.table(
        [pictures.lease(one) for one in leases],
        ("LEASE", "NAME", "BORROWER", "MODEL", "STATE", "SPENT", "GRANTED", "BUDGET", "REQUESTS"),
        [
            (
                one.id,
                escape(one.name),
                escape(one.borrower),
                escape(one.model_id),
                pictures.state(one),
                f"{one.spent:,}",
                f"{one.granted:,}",
                f"{one.budget:,}",
                str(len(pictures.pending(one))) if pictures.pending(one) else "",
            )
            for one in leases
        ],
        empty="no leases; lend a model with: blindai custodian lease create NAME",
    )


@app.command()
@command()
def show(office: Office, lease: LeaseArgument) -> None:
    """Show one lease: its accounts, its enclaves, requests, and decisions that wait for others."""
    found = office.ledger.lease(lease)
    key = office.custodian.keys.public_key
    office.show(pictures.lease(found) | {"custodian": key}, *pictures.words(found, key))


def _require_chips(policy: Policy, *, any_chip: bool) -> None:
    if policy.chips or policy.allow_simulated or any_chip:
        return
    raise ConfigurationError(
        "the policy does not say on which processors the model may run. Whoever has any such processor, anywhere, and "
        "a device between it and its memory can forge evidence (TEE.fail, Battering RAM, WireTap, 2025), and would get "
        "the model's key",
        code="lease.chips",
        hint="name the borrower's processors in the policy, under [chips]: `blindai verify --explain` shows theirs; "
        "or take the risk: --any-chip",
    )


def _consumers(given: list[str]) -> dict[str, int | None]:
    consumers: dict[str, int | None] = {}
    for text in given:
        name, has_amount, amount = text.partition("=")
        # int() takes underscores, spaces and digits of every script.
        if name in consumers or (has_amount and not (amount.isascii() and amount.isdecimal())):
            raise ConfigurationError(
                f"{text!r} is no consumer: each is NAME, or NAME=N with a whole number N, and comes once",
                code="lease.consumers",
            )
        consumers[name] = int(amount) if has_amount else None
    return consumers


def _milliseconds(seconds: float | None, default: int) -> int:
    return default if seconds is None else round(seconds * 1000)


def _sealed(model: Path, target: Path, key: bytearray, *, progress: bool) -> SealedModel:
    from blindai.client.model_file import ModelBody
    from blindai.client.progress import upload_progress
    from blindai.crypto import secret_file
    from blindai.custody.sealing import seal

    body = ModelBody.open(model)
    try:
        target.parent.mkdir(mode=secret_file.PRIVATE_FOLDER, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"the folder {target.parent} cannot be made: {error.strerror or error}", code="configuration.output"
        ) from error
    with upload_progress(body, model.name, enabled=None if progress else False) as chunks:
        return seal(
            chunks,
            size=body.content_length,
            model_digest=body.sha256.hex(),
            content_type=body.content_type,
            target=target,
            key=key,
        )


def _tell(office: Office, lease: Lease, address: str, artefact: Path, tokens: dict[str, str]) -> None:
    """What the borrower and the consumers need."""
    custody = {
        "address": address,
        "public_key": office.custodian.keys.public_key,
        "lease": lease.id,
        "model_id": lease.model_id,
    }
    if office.as_json:
        office.show({"lease": pictures.lease(lease), "artefact": str(artefact), "custody": custody, "tokens": tokens})
        return
    out.print(f"[green]lent[/] {escape(lease.name)}: [bold]{lease.id}[/]")
    err.print("for the borrower's enclave, in the file of `blindai serve --config`:")
    out.print("[custody]", *(f'{name} = "{value}"' for name, value in custody.items()), sep="\n", markup=False)
    err.print("the sealed model, which may be given away; else the enclave fetches it here:")
    out.print(str(artefact), markup=False)
    for consumer, token in tokens.items():
        err.print(f"the token of {consumer}, which is not shown again:", markup=False)
        out.print(token, markup=False)
