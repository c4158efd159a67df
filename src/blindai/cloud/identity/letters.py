"""What the mails to people say: what happened, where, and what to do if it was not them. No password, ever."""

from __future__ import annotations

from typing import Final

from blindai.cloud.mail import Message
from blindai.cloud.site import Site

# Pages of the console that mails lead to.
VERIFY_PATH: Final = "/verify"
RESET_PATH: Final = "/reset"
FORGOTTEN_PATH: Final = "/forgotten"
SIGN_IN_PATH: Final = "/sign-in"
ACCOUNT_PATH: Final = "/account"


class Letters:
    """The mails of one site."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def verify(self, email: str, name: str | None, link: str) -> Message:
        """To somebody who has signed up."""
        account = "" if name is None else f' the account "{name}"'
        return self._letter(
            email,
            "Confirm your address",
            f"Somebody, most likely you, signed up{account and ' for' + account} with this address. To confirm it, "
            "open this page within a day:",
            f"{self._site.url}{VERIFY_PATH}?link={link}",
            "If it was not you, do nothing: the sign-up is deleted after a day.",
        )

    def already(self, email: str, link: str) -> Message:
        """To somebody who has signed up with an address that has signed up before."""
        return self._letter(
            email,
            "You have signed up before",
            "Somebody, perhaps you, tried to sign up with this address. You have signed up before; nothing was "
            "changed. Sign in here:",
            f"{self._site.url}{SIGN_IN_PATH}",
            "If you have forgotten your password, you can choose a new one within an hour:",
            f"{self._site.url}{RESET_PATH}?link={link}",
            "If it was not you, do nothing.",
        )

    def reset(self, email: str, link: str) -> Message:
        """To somebody who has forgotten the password."""
        return self._letter(
            email,
            "Choose a new password",
            "Somebody, most likely you, asked for a new password. To choose one, open this page within an hour:",
            f"{self._site.url}{RESET_PATH}?link={link}",
            "It signs you out everywhere and removes your passkeys.",
            "If it was not you, do nothing: your password stays as it is.",
        )

    def password_changed(self, email: str) -> Message:
        """After a change."""
        return self._letter(
            email,
            "Your password was changed",
            "Your password was changed, and your other browsers and command lines were signed out.",
            *self._not_you(),
        )

    def password_reset(self, email: str) -> Message:
        """After a reset."""
        return self._letter(
            email,
            "Your password was reset",
            "A new password was chosen with a link from a mail to this address. You were signed out everywhere, and "
            "your passkeys were removed. API keys go on working: look through them on the pages of your accounts.",
            *self._not_you(),
        )

    def passkey_added(self, email: str, name: str) -> Message:
        """Somebody can sign in in one more way."""
        return self._letter(email, "A passkey was added", f'The passkey "{name}" was added.', *self._not_you())

    def passkey_removed(self, email: str, name: str) -> Message:
        """And in one way less."""
        return self._letter(email, "A passkey was removed", f'The passkey "{name}" was removed.', *self._not_you())

    def passkey_cloned(self, email: str, name: str) -> Message:
        """Two devices seem to have one key."""
        return self._letter(
            email,
            "A sign-in was refused",
            f'Somebody tried to sign in with the passkey "{name}". Its counter was not ahead of the one of your last '
            "sign-in, as if there were a copy of it. The sign-in was refused.",
            f"If it was you, remove the passkey and add it again: {self._site.url}{ACCOUNT_PATH}",
            *self._not_you(),
        )

    def device_approved(self, email: str, name: str) -> Message:
        """A command line was let in."""
        return self._letter(
            email,
            "A command line was signed in",
            f'You let "{name}" sign in. It may make and revoke API keys in your name.',
            *self._not_you(),
        )

    def left(self, email: str) -> Message:
        """The last mail."""
        return self._letter(
            email,
            "You have left",
            "Your user was deleted: address, password, passkeys and sessions. The API keys of your personal account "
            "were revoked.",
            "If it was not you, answer at once to whoever runs this site.",
        )

    def _not_you(self) -> tuple[str, str]:
        return (
            "If it was not you, choose a new password at once; that signs everybody out:",
            f"{self._site.url}{FORGOTTEN_PATH}",
        )

    def _letter(self, email: str, subject: str, *parts: str) -> Message:
        text = "\n\n".join((f"{self._site.name} ({self._site.url})", *parts))
        return Message(email, f"{self._site.name}: {subject}", text + "\n")
