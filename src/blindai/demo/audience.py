"""Whom a story is told to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

if TYPE_CHECKING:
    from rich.console import Console


class Audience:
    """Told step by step.

    Attributes:
        console: where it looks.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str = "") -> None:
        """One line, in rich markup."""
        self.console.print(f"   {text}" if text else "")

    def head(self, number: int, text: str) -> None:
        """The beginning of a step."""
        self.console.print(f"[bold]{number}.[/] {text}")

    def command(self, text: str) -> None:
        """What somebody would type to do what is done here."""
        self.console.print(f"   [dim]$ {escape(text)}[/]")
