"""What all commands share in front of a person or a script: the console, JSON, errors and exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NoReturn

import typer
from rich.console import Console

from blindai.errors import (
    AttestationError,
    AuthenticationError,
    BlindAIError,
    BudgetExhausted,
    ConfigurationError,
    CustodianError,
    InvalidInput,
    InvalidModel,
    LeaseExpired,
    LeaseStopped,
    ModelNotFound,
    PermissionDenied,
    QuotaExceeded,
    ReceiptError,
    Unavailable,
    harmless,
)

# rich keeps to NO_COLOR and to what the terminal can do. `:CD:` in a fingerprint is no picture of a disc.
out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


class ExitCode(IntEnum):
    """Exit codes; they keep their meaning across releases."""

    OK = 0
    FAILED = 1
    USAGE = 2
    ATTESTATION = 3
    NOT_FOUND = 4
    INVALID = 5
    DENIED = 6
    LIMIT = 7
    UNAVAILABLE = 8
    INTERRUPTED = 130


_EXIT_CODES: dict[type[BlindAIError], ExitCode] = {
    AttestationError: ExitCode.ATTESTATION,
    AuthenticationError: ExitCode.DENIED,
    BudgetExhausted: ExitCode.LIMIT,
    ConfigurationError: ExitCode.USAGE,
    CustodianError: ExitCode.ATTESTATION,
    InvalidInput: ExitCode.INVALID,
    InvalidModel: ExitCode.INVALID,
    LeaseExpired: ExitCode.LIMIT,
    LeaseStopped: ExitCode.LIMIT,
    ModelNotFound: ExitCode.NOT_FOUND,
    PermissionDenied: ExitCode.DENIED,
    QuotaExceeded: ExitCode.LIMIT,
    ReceiptError: ExitCode.ATTESTATION,
    Unavailable: ExitCode.UNAVAILABLE,
}


def exit_code(error: BlindAIError) -> ExitCode:
    """The exit code of a command that ended with `error`."""
    return next((_EXIT_CODES[kind] for kind in type(error).__mro__ if kind in _EXIT_CODES), ExitCode.FAILED)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def reported(*, as_json: bool) -> Iterator[None]:
    """Run a command's body; an error of ours becomes words or JSON, and an exit code. Others are bugs and stay loud."""
    try:
        yield
        # Here, and not at exit, is where a reader that went away can still be handled.
        sys.stdout.flush()
    except BlindAIError as error:
        fail(error, as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of our output went away, as `head` does: nothing more to say, and nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.FAILED) from None


def fail(error: BlindAIError, *, as_json: bool) -> NoReturn:
    """Say what went wrong, and leave."""
    if as_json:
        print_json({"error": error_fields(error)})
    else:
        print_error(error)
    raise typer.Exit(exit_code(error))


def print_error(error: BlindAIError) -> None:
    """An error in words, on standard error."""
    err.print(f"{type(error).__name__}: ", style="bold red", end="")
    err.print("\n".join(map(harmless, str(error).split("\n"))), markup=False)


def error_fields(error: BlindAIError) -> dict[str, Any]:
    """The parts of an error for machines."""
    fields = {"type": type(error).__name__, "code": error.code, "message": error.message, "hint": error.hint}
    if isinstance(error, AttestationError):
        fields |= {
            "step": error.step,
            "check": error.check,
            "expected": error.expected,
            "got": error.got,
            "likely": error.likely,
        }
    if isinstance(error, ReceiptError):
        fields |= {"check": error.check, "expected": error.expected, "got": error.got}
    return {name: value for name, value in fields.items() if value}
