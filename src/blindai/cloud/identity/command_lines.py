"""Command lines that sign in as a user: `blindai login`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blindai.cloud.identity import devices, users
from blindai.cloud.identity.rates import DEVICE_CODES, DEVICE_GUESSES
from blindai.cloud.identity.registry import Registry
from blindai.cloud.identity.tokens import Token
from blindai.cloud.identity.users import User
from blindai.errors import AuthenticationError
from blindai.web.database import retrying
from blindai.wire.cloud_api import AccessToken, DeviceCodes

if TYPE_CHECKING:
    from sqlalchemy import Row


class CommandLines(Registry):
    """Device grants, and the access tokens that they lead to."""

    @retrying
    def device_codes(self, name: str, *, address: str) -> DeviceCodes:
        """Begin the sign-in of a command line.

        Args:
            name: what it calls itself.

        Raises:
            InvalidInput: `device.name`.
            Throttled: `quota.rate`.
        """
        with self._database.write() as connection:
            self._rates.take_place(connection, DEVICE_CODES, address)
            return self._devices.begin(connection, name)

    def device_grant(self, user_code: str, *, user_id: str) -> str:
        """What the command line that waits with this code calls itself.

        Args:
            user_id: who asks, for counting wrong codes.

        Raises:
            InvalidInput: `device.code`.
            Throttled: `quota.rate`.
        """
        found = self._with_code(user_code, user_id)
        if found is None:
            raise devices.unknown()
        return str(found.name)

    def decide_device(self, user_id: str, user_code: str, approve: bool) -> None:  # noqa: FBT001 - the decision itself
        """Let the command line that waits with this code in as this user, or not.

        Raises:
            InvalidInput: `device.code`, `identity.unknown`.
            Throttled: `quota.rate`.
        """
        found = self._with_code(user_code, user_id, approve=approve)
        if found is None:
            raise devices.unknown()
        if approve:
            with self._database.read() as connection:
                row = users.find(connection, user_id)
            if row is not None:
                self._tell(self._letters.device_approved(row.email, found.name))

    @retrying
    def _with_code(self, user_code: str, user_id: str, *, approve: bool | None = None) -> Row[Any] | None:
        """The grant of a code, decided about if that is wanted. Codes that are wrong are counted."""
        with self._database.write() as connection:
            users.known(connection, user_id)
            self._rates.require(connection, DEVICE_GUESSES, user_id)
            found = self._devices.find(connection, user_code)
            if found is None:
                self._rates.may(connection, DEVICE_GUESSES, user_id)
            elif approve is not None:
                self._devices.decide(connection, found, user_id, approve=approve)
                if approve:
                    self._note(connection, user_id, "user.device_approved", found.name)
            return found

    def device_token(self, device_code: str) -> AccessToken:
        """The access token of a command line that was let in. It is given once.

        Raises:
            AuthenticationError: `device.authorization_pending`, `device.slow_down`, `device.access_denied` or
                `device.expired_token` (RFC 8628, section 3.5).
        """
        answer = self._device_token(device_code)
        if isinstance(answer, AuthenticationError):
            raise answer
        return answer

    def user_of_token(self, token: str) -> User | None:
        """Whose access token this is, if it is good."""
        with self._database.read() as connection:
            found = self._tokens.find(connection, token)
            row = None if found is None else users.find(connection, found.user)
        if found is None or row is None or row.verified_at is None:
            return None
        if self._tokens.is_stale(found):
            self._touch_token(found)
        return users.user_of(row)

    def tokens(self, user_id: str) -> tuple[Token, ...]:
        """The command lines that are signed in as a user, those used last first."""
        with self._database.read() as connection:
            return self._tokens.of(connection, user_id)

    @retrying
    def revoke_token(self, user_id: str, token_id: str) -> None:
        """Sign a command line out.

        Raises:
            InvalidInput: `identity.token_unknown`.
        """
        with self._database.write() as connection:
            self._tokens.remove(connection, user_id, token_id)

    @retrying
    def give_token_back(self, token: str) -> None:
        """Sign out the command line that has this token; a text that is none is no error."""
        with self._database.write() as connection:
            self._tokens.end(connection, token)

    @retrying
    def _device_token(self, device_code: str) -> AccessToken | AuthenticationError:
        with self._database.write() as connection:
            grant = self._devices.take(connection, device_code)
            if isinstance(grant, AuthenticationError):
                return grant
            return self._tokens.make(connection, users.known(connection, grant.user).id, grant.name)

    @retrying
    def _touch_token(self, found: Row[Any]) -> None:
        with self._database.write() as connection:
            self._tokens.touch(connection, found)
