"""How a command line gets its access token, and gives it back (RFC 8628)."""

from __future__ import annotations

from blindai.cloud.api.call import Call
from blindai.wire.cloud_api import AccessToken, DeviceCode, DeviceCodes, DeviceRequest


async def request_codes(call: Call) -> DeviceCodes:
    """Codes for a command line that wants to sign in."""
    asked = await call.read(DeviceRequest)
    return await call.ask(call.plane.people.device_codes, asked.name, address=call.address)


async def take_token(call: Call) -> AccessToken:
    """The token, once somebody who is signed in has agreed."""
    asked = await call.read(DeviceCode)
    return await call.ask(call.plane.people.device_token, asked.device_code)


async def give_token_back(call: Call) -> None:
    """Sign the command line out: its token is worth nothing any more."""
    await call.ask(call.plane.people.give_token_back, call.token)
