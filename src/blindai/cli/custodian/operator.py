"""`blindai custodian operator`: the accounts of those who decide. The first one can only be made here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from blindai.cli.custodian.office import As, Office, PasswordFile, command, read_password, signed_in
from blindai.cli.custodian.place import ask
from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from blindai.custody.operators import Operator

app = typer.Typer(no_args_is_help=True, help="Make and change the accounts of those who decide.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the account; it is never given a second time.")]
NewPasswordFile = Annotated[
    Path | None,
    typer.Option("--new-password-file", metavar="FILE", help="Holds the new password, one line; else it is asked for."),
]


@app.command()
@command()
def add(
    office: Office,
    name: Name,
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help="viewer, operator or admin; the first account is an admin.")
    ] = "",
    new_password_file: NewPasswordFile = None,
    acting: As = None,
    acting_password: PasswordFile = None,
) -> None:
    """Make an account. The first, an admin, is made by whoever has the custodian's files; others by an admin."""
    from blindai.custody.operators import Role, require_name

    accounts = office.custodian.operators
    first = not accounts.all()
    roles = [one.value for one in Role]
    if role not in roles and (role or not first):
        raise ConfigurationError(f"the role is one of {', '.join(roles)}", code="operator.unknown_role")
    if first and role not in {"", Role.ADMIN}:
        raise ConfigurationError(
            "the first account must be an admin: nobody could make others",
            code="operator.first",
            hint=f"blindai custodian operator add {name} --role admin",
        )
    # Before anybody types a password.
    require_name(name)
    if not first:
        signed_in(office.custodian, "operators", acting, acting_password)
    made = accounts.add(name, Role(role or Role.ADMIN), _new_password(name, new_password_file))
    office.show(_fields(made), f"[green]added[/] {escape(made.name)}, {made.role}")


@app.command(name="list")
@command()
def list_all(office: Office) -> None:
    """List the accounts."""
    accounts = office.custodian.operators.all()
    office.table(
        [_fields(one) for one in accounts],
        ("name", "role", "state", "made"),
        [(escape(one.name), one.role, _state(one), f"{one.created_at:%Y-%m-%d %H:%M} UTC") for one in accounts],
        empty="nobody yet: blindai custodian operator add NAME",
    )


@app.command()
@command("operators")
def disable(office: Office, name: Name) -> None:
    """Shut an account, and sign it out everywhere. Its name stays taken."""
    office.custodian.operators.disable(name)
    office.show(_fields(office.custodian.operators.find(name)), f"[yellow]shut[/] {escape(name)}")


@app.command()
@command("operators")
def enable(office: Office, name: Name) -> None:
    """Open an account again that was shut."""
    office.custodian.operators.enable(name)
    office.show(_fields(office.custodian.operators.find(name)), f"[green]opened[/] {escape(name)}")


@app.command()
@command()
def password(
    office: Office,
    name: Name,
    new_password_file: NewPasswordFile = None,
    recover: Annotated[
        bool,
        typer.Option(
            "--recover", help="Nobody can sign in any more: whoever has the custodian's files sets a new password."
        ),
    ] = False,
    acting: As = None,
    acting_password: PasswordFile = None,
) -> None:
    """Give an account another password, and sign it out everywhere: one's own, or, as an admin, anybody's."""
    accounts = office.custodian.operators
    accounts.find(name)
    if not recover:
        signed_in(office.custodian, "view" if acting == name else "operators", acting, acting_password)
    accounts.set_password(name, _new_password(name, new_password_file))
    office.show(_fields(accounts.find(name)), f"[green]changed[/] the password of {escape(name)}")


def _new_password(name: str, path: Path | None) -> str:
    return ask(f"New password of {name}", twice=True) if path is None else read_password(path)


def _fields(operator: Operator) -> dict[str, Any]:
    return {
        "name": operator.name,
        "role": operator.role.value,
        "disabled": operator.disabled,
        "created_at": operator.created_at.isoformat(),
    }


def _state(operator: Operator) -> str:
    return "shut" if operator.disabled else "open"
