"""What mails say."""

from __future__ import annotations

import pytest

from account_world import SITE
from blindai.cloud.console import account, devices, sign_in, sign_up
from blindai.cloud.identity import letters
from blindai.cloud.identity.devices import PAGE
from blindai.cloud.identity.letters import Letters
from blindai.cloud.mail import Message

EMAIL = "alice@example.org"

WRITTEN = Letters(SITE)
ALL = {
    "verify": WRITTEN.verify(EMAIL, "alice", "s3cret"),
    "verify without a name": WRITTEN.verify(EMAIL, None, "s3cret"),
    "already": WRITTEN.already(EMAIL, "s3cret"),
    "reset": WRITTEN.reset(EMAIL, "s3cret"),
    "password changed": WRITTEN.password_changed(EMAIL),
    "password reset": WRITTEN.password_reset(EMAIL),
    "passkey added": WRITTEN.passkey_added(EMAIL, "phone"),
    "passkey removed": WRITTEN.passkey_removed(EMAIL, "phone"),
    "passkey cloned": WRITTEN.passkey_cloned(EMAIL, "phone"),
    "device approved": WRITTEN.device_approved(EMAIL, "laptop"),
    "left": WRITTEN.left(EMAIL),
}


@pytest.mark.parametrize("message", ALL.values(), ids=ALL.keys())
def test_a_mail_says_where_what_and_what_to_do_if_it_was_not_you(message: Message) -> None:
    assert message.to == EMAIL
    assert message.subject.startswith(f"{SITE.name}: ")
    assert message.text.startswith(f"{SITE.name} ({SITE.url})\n\n")
    assert "If it was not you, " in message.text
    assert len(message.text) < 800
    assert max(len(line) for line in message.text.splitlines()) < 998  # RFC 5322, section 2.1.1
    # Secrets stand in links alone, and these on lines of their own, which mail programs make into links.
    assert message.text.count("s3cret") == message.text.count("?link=s3cret\n")
    assert all(line.startswith(SITE.url) for line in message.text.splitlines() if "https://" in line[:10])


def test_every_page_that_a_mail_leads_to_is_there() -> None:
    tables = (*sign_up.OPEN, *sign_in.OPEN, *account.ADDRESSES, *devices.ADDRESSES)
    paths = {address.path for address in tables if address.method == "GET"}
    assert {value for name, value in vars(letters).items() if name.endswith("_PATH")} | {PAGE} <= paths
