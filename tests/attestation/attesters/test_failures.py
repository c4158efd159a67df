from __future__ import annotations

import errno
import os

import pytest

from blindai.attestation.attesters.failures import reporting
from blindai.errors import BlindAIError, ConfigurationError, Unavailable


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ENOENT, ConfigurationError, "attester.missing"),
        (errno.ENOTDIR, ConfigurationError, "attester.missing"),
        (errno.ENXIO, ConfigurationError, "attester.missing"),
        (errno.ENODEV, ConfigurationError, "attester.missing"),
        (errno.ENOTTY, ConfigurationError, "attester.missing"),
        (errno.EACCES, ConfigurationError, "attester.denied"),
        (errno.EPERM, ConfigurationError, "attester.denied"),
        (errno.EROFS, ConfigurationError, "attester.denied"),
        (errno.EBUSY, Unavailable, "attester.busy"),
        (errno.EWOULDBLOCK, Unavailable, "attester.busy"),
        (errno.EAGAIN, Unavailable, "attester.busy"),
        (errno.EINTR, Unavailable, "attester.busy"),
        (errno.ETIMEDOUT, Unavailable, "attester.busy"),
        (errno.EIO, Unavailable, "attester.failed"),
        (errno.EINVAL, Unavailable, "attester.failed"),
        (errno.EFBIG, Unavailable, "attester.failed"),
    ],
)
def test_each_error_of_the_system_has_its_code(number: int, kind: type[BlindAIError], code: str) -> None:
    with pytest.raises(kind) as caught, reporting("reading the quote", hint="try"):
        raise OSError(number, os.strerror(number))
    assert (type(caught.value), caught.value.code, caught.value.hint) == (kind, code, "try")
    assert "reading the quote failed" in caught.value.message
    assert os.strerror(number) in caught.value.message


def test_an_error_without_a_number_keeps_its_words() -> None:
    with pytest.raises(Unavailable) as caught, reporting("reading"):
        raise OSError("odd")
    assert (caught.value.code, caught.value.message) == ("attester.failed", "reading failed: odd")


def test_who_is_denied_is_told_what_to_do() -> None:
    with pytest.raises(ConfigurationError) as caught, reporting("reading"):
        raise PermissionError(errno.EACCES, "no")
    assert "run as a user" in caught.value.hint


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), reporting("reading"):
        raise KeyError
