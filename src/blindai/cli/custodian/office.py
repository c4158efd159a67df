"""What the custodian's commands share: they open it, know who acts, and print for people or for programs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from rich.table import Table

from blindai.cli.console import out, print_json, reported
from blindai.cli.custodian.place import PlaceOptions, ask
from blindai.cli.target import Json, open_input
from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from blindai.custody.custodian import Custodian
    from blindai.custody.ledger import Ledger
    from blindai.custody.operators import Operator

As = Annotated[str | None, typer.Option("--as", metavar="NAME", help="The operator who does this.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        "--password-file", metavar="FILE", help="Holds the operator's password, one line; else it is asked for."
    ),
]

ActionName = Literal["view", "stop", "resume", "decide", "consumers", "operators"]
"""As `custody.operators.Action`, which cannot be imported where only the client is installed."""

# Whom failures at the command line are counted against, beside the account.
_ADDRESS: Final = "command line"

_MAX_PASSWORD_BYTES: Final = 4096


@dataclass(frozen=True, kw_only=True)
class Office:
    """An open custodian, and who acts.

    Attributes:
        operator: None for commands that only look.
        as_json: print one JSON document.
    """

    custodian: Custodian
    operator: Operator | None
    as_json: bool

    @property
    def ledger(self) -> Ledger:
        return self.custodian.ledger

    @property
    def by(self) -> str:
        """Who acts, as the ledger writes it down."""
        if self.operator is None:
            raise AssertionError("unreachable: this command names no operator")
        return self.operator.name

    def show(self, value: Any, *words: str) -> None:
        """Print `value` for programs, or `words`, which are rich markup, for people."""
        if self.as_json:
            print_json(value)
        else:
            for line in words:
                out.print(line)

    def table(self, value: Any, columns: tuple[str, ...], rows: list[tuple[str, ...]], *, empty: str) -> None:
        """Print `value` for programs, or a table for people; `empty` where it has no rows."""
        if self.as_json:
            print_json(value)
            return
        if not rows:
            out.print(empty)
            return
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for place, column in enumerate(columns):
            # The first is what other commands take: it must stay whole.
            table.add_column(column, no_wrap=place == 0)
        for row in rows:
            table.add_row(*row)
        out.print(table)


def command(action: ActionName | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function whose first argument is an `Office`.

    The command takes the function's options, those of `PlaceOptions`, `--json`, and, where `action` says what the
    operator must be allowed to do, `--as` and `--password-file`.
    """

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(body)
        def run(**options: Any) -> None:
            place = PlaceOptions(**{field.name: options.pop(field.name) for field in fields(PlaceOptions)})
            as_json: bool = options.pop("as_json")
            name: str | None = options.pop("by", None)
            password_file: Path | None = options.pop("password_file", None)
            with reported(as_json=as_json), place.open() as custodian:
                operator = None if action is None else signed_in(custodian, action, name, password_file)
                body(Office(custodian=custodian, operator=operator, as_json=as_json), **options)

        own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
        place = inspect.signature(PlaceOptions, eval_str=True).parameters.values()
        acting = inspect.signature(_acting, eval_str=True).parameters.values() if action is not None else ()
        asked = inspect.signature(_printing, eval_str=True).parameters.values()
        # typer hands all over by name; so they need no order.
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *acting, *place, *asked)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # read by inspect, PEP 362
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def signed_in(custodian: Custodian, action: ActionName, name: str | None, password_file: Path | None) -> Operator:
    """The operator `name`, who may do `action`.

    Raises:
        ConfigurationError: `operator.none`, there are no operators yet; `operator.unnamed`;
            `configuration.password_file`, `configuration.terminal`.
        AuthenticationError: `authentication.*`.
        PermissionDenied: `operator.role`.
    """
    from blindai.custody.operators import Action

    if not custodian.operators.all():
        raise ConfigurationError(
            "this custodian has no operators yet",
            code="operator.none",
            hint="make the first one: blindai custodian operator add NAME",
        )
    if name is None:
        raise ConfigurationError("somebody must answer for this", code="operator.unnamed", hint="say who: --as NAME")
    password = ask(f"Password of {name}") if password_file is None else read_password(password_file)
    operator = custodian.operators.check(name, password, address=_ADDRESS)
    operator.require(Action(action))
    return operator


def read_password(path: Path) -> str:
    """The one line in a file; `-` is standard input.

    Raises:
        ConfigurationError: `configuration.password_file`.
    """
    try:
        with open_input(path) as file:
            text = file.read(_MAX_PASSWORD_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the password cannot be read from {path}: {error}", code="configuration.password_file"
        ) from error
    line, _, rest = text.partition("\n")
    if rest or not line or len(text) > _MAX_PASSWORD_BYTES:
        raise ConfigurationError(f"{path} does not hold a password, on one line", code="configuration.password_file")
    return line.removesuffix("\r")


def _acting(by: As = None, password_file: PasswordFile = None) -> None:
    """The options of a command that decides something."""


def _printing(as_json: Json = False) -> None:
    """The option of every command."""
