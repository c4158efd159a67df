"""What the operating system answers when evidence is asked of it, in the words of this package."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from blindai.errors import BlindAIError, ConfigurationError, Unavailable

_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.ENOTTY})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# The kernel's way to say "later": another request is under way, or the host did not answer in time.
_BUSY = frozenset({errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT, errno.EEXIST})


@contextmanager
def reporting(doing: str, *, hint: str = "") -> Iterator[None]:
    """Raise an `OSError` from within as an error of this package that says what was being done.

    Raises:
        ConfigurationError: `attester.missing`, `attester.denied`: it will not work until somebody changes this machine.
        Unavailable: `attester.busy`, `attester.failed`: it may work another time.
    """
    try:
        yield
    except OSError as error:
        raise _refusal(error, doing, hint) from error


def _refusal(error: OSError, doing: str, hint: str) -> BlindAIError:
    message = f"{doing} failed: {_words(error)}"
    if error.errno in _MISSING:
        return ConfigurationError(message, code="attester.missing", hint=hint)
    if error.errno in _DENIED:
        return ConfigurationError(message, code="attester.denied", hint=hint or "run as a user who may use that file")
    if error.errno in _BUSY:
        return Unavailable(message, code="attester.busy", hint=hint)
    return Unavailable(message, code="attester.failed", hint=hint)


def _words(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, "")
    return f"{error.strerror} ({name})" if name else str(error)
