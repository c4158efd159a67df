"""Signing a program in to a cloud by the device grant (RFC 8628): its user agrees in a browser, on any machine.

The program shows a short code and asks until somebody who is signed in has entered it and agreed. It never sees a
password, and needs no browser beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from blindai.client.control_plane import ControlPlane
from blindai.errors import AuthenticationError, BlindAIError, Unavailable
from blindai.wire.cloud_api import DENIED, EXPIRED, PENDING, SLOW_DOWN, AccessToken, DeviceCodes

# RFC 8628, section 3.5: what `slow_down` adds, and what to wait where nothing is said (section 3.2).
_SLOWER_SECONDS: Final = 5
_DEFAULT_SECONDS: Final = 5

# A hostile answer shall neither make this spin nor sleep for ever.
_MIN_SECONDS: Final = 1
_MAX_SECONDS: Final = 60
_MAX_PATIENCE_SECONDS: Final = 3600


def wait_for_consent(
    plane: ControlPlane,
    codes: DeviceCodes,
    *,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> AccessToken:
    """Ask until somebody has agreed.

    Args:
        plane: the cloud that gave `codes`.
        sleep, monotonic: the clock, in seconds.

    Raises:
        AuthenticationError: `device.access_denied`, somebody declined; `device.expired_token`, nobody decided in time.
        BlindAIError: as `ControlPlane`, but for connections that fail: they are tried again (section 3.5).
    """
    interval: float = min(max(codes.interval, _MIN_SECONDS), _MAX_SECONDS) if codes.interval else _DEFAULT_SECONDS
    deadline = monotonic() + min(codes.expires_in, _MAX_PATIENCE_SECONDS)
    while monotonic() + interval <= deadline:
        sleep(interval)
        try:
            return plane.device_token(codes.device_code)
        except Unavailable as error:
            if error.code != "unavailable.connection":
                raise
            interval = min(interval * 2, _MAX_SECONDS)
        except BlindAIError as error:
            if error.code in {DENIED, EXPIRED}:
                raise AuthenticationError(error.message, code=error.code, hint="blindai login") from error
            if error.code == SLOW_DOWN:
                interval = min(interval + _SLOWER_SECONDS, _MAX_SECONDS)
            elif error.code != PENDING:
                raise
    raise AuthenticationError("nobody has agreed in time", code=EXPIRED, hint="blindai login")
