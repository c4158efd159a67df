"""`blindai demo`: the whole story on one machine."""

from __future__ import annotations

import typer

from blindai.cli.console import ExitCode, err, out, print_json, reported
from blindai.cli.serve import require_server_extra
from blindai.cli.target import Json


def demo(as_json: Json = False) -> None:
    """Play the whole story on this machine: a confidential prediction, then five attacks that are refused."""
    with reported(as_json=as_json):
        require_server_extra()
        from blindai.demo.story import StoryFailed, tell

        try:
            summary = tell(err if as_json else out)
        except StoryFailed as error:
            err.print(f"the story went wrong: {error}", style="bold red", markup=False)
            raise typer.Exit(ExitCode.FAILED) from error
        if as_json:
            print_json(summary.to_builtins())
