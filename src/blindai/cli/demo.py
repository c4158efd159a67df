"""`blindai demo`: whole stories on one machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import typer

from blindai.cli.cloud.place import require_cloud_extra
from blindai.cli.console import ExitCode, err, out, print_json, reported
from blindai.cli.custodian.place import require_custodian_extra
from blindai.cli.serve import require_server_extra
from blindai.cli.target import Json

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(invoke_without_command=True, no_args_is_help=False)


class Summary(Protocol):
    """What a story found."""

    def to_builtins(self) -> dict[str, Any]: ...


@app.callback()
def demo(context: typer.Context, as_json: Json = False) -> None:
    """Play the whole story on this machine: a confidential prediction, then five attacks that are refused.

    `blindai demo custody` plays another one, a model on loan; `blindai demo cloud` a third, a cloud and its users.
    """
    if context.invoked_subcommand is not None:
        return
    with reported(as_json=as_json):
        require_server_extra()
        from blindai.demo.story import tell

        _play(tell, as_json=as_json)


@app.command()
def custody(context: typer.Context, as_json: Json = False) -> None:
    """Lend a model: it is metered, stopped, resumed and expires; then seven ways to cheat, each refused."""
    as_json = as_json or bool(context.parent and context.parent.params["as_json"])
    with reported(as_json=as_json):
        require_server_extra()
        require_custodian_extra()
        from blindai.demo.custody.story import tell

        _play(tell, as_json=as_json)


@app.command()
def cloud(context: typer.Context, as_json: Json = False) -> None:
    """Use a cloud: sign up, make a key, upload a model, let others query it; and who is refused, and when."""
    as_json = as_json or bool(context.parent and context.parent.params["as_json"])
    with reported(as_json=as_json):
        require_server_extra()
        require_cloud_extra()
        from blindai.demo.cloud.story import tell

        _play(tell, as_json=as_json)


def _play(tell: Callable[[Console], Summary], *, as_json: bool) -> None:
    from blindai.demo.story import StoryFailed

    try:
        summary = tell(err if as_json else out)
    except StoryFailed as error:
        err.print(f"the story went wrong: {error}", style="bold red", markup=False)
        raise typer.Exit(ExitCode.FAILED) from error
    if as_json:
        print_json(summary.to_builtins())
