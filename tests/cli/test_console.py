from __future__ import annotations

import pytest
import typer

from blindai.cli.console import ExitCode, err, error_fields, fail, out, reported
from blindai.errors import AttestationError, BlindAIError, ModelNotFound


def test_an_error_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    error = AttestationError("no", code="code.unknown", step="code", got="\x1b[2J", hint="blindai verify")
    with pytest.raises(typer.Exit) as caught:
        fail(error, as_json=False)
    assert caught.value.exit_code == ExitCode.ATTESTATION
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("AttestationError: no\n")
    assert "got       ?[2J" in captured.err


def test_an_error_for_machines() -> None:
    error = ModelNotFound("not here", code="model.not_found")
    assert error_fields(error) == {"type": "ModelNotFound", "code": "model.not_found", "message": "not here"}


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (BlindAIError("bug", code="internal"), ExitCode.FAILED),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
    ],
)
def test_how_a_command_ends(raised: BaseException, code: ExitCode) -> None:
    with pytest.raises(typer.Exit) as caught, reported(as_json=True):
        raise raised
    assert caught.value.exit_code == code


def test_bugs_stay_loud() -> None:
    with pytest.raises(ZeroDivisionError), reported(as_json=True):
        raise ZeroDivisionError


def test_a_fingerprint_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    for console in (out, err):
        console.print("B1:CD:0E")
    assert capsys.readouterr() == ("B1:CD:0E\n", "B1:CD:0E\n")
