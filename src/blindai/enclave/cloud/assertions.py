"""What an enclave takes of the control plane's answers: only what answers its own question, signed by the measured key.

An answer that has anything else in it is taken for nothing at all: whoever wrote it is not the control plane that this
enclave was configured for, or does not speak as it should.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature

from blindai.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from blindai.wire.cloud import Assertion, AuthorisationAnswer, AuthorisationRequest


class AssertionReader:
    """Reads answers.

    Args:
        public_key: of the control plane, from the measured configuration.
        instance: that asks.
    """

    def __init__(self, public_key: Ed25519PublicKey, instance: str) -> None:
        self._public_key = public_key
        self._instance = instance

    def read(self, question: AuthorisationRequest, answer: AuthorisationAnswer) -> dict[str, Assertion | None]:
        """Digest of a key to what is asserted of it; None for a key that was refused. May be called from any thread.

        Keys that the answer leaves out are left out here.

        Raises:
            Unavailable: `unavailable.protocol`; nothing of this answer counts.
        """
        found: dict[str, Assertion | None] = {}
        asked = frozenset(question.keys)
        for signed in answer.assertions:
            assertion = signed.assertion
            _enter(found, asked, assertion.key, assertion)
            if assertion.nonce != question.nonce:
                raise _wrong("it asserts something about another question")
            if assertion.instance != self._instance:
                raise _wrong("it asserts something to another enclave")
            try:
                self._public_key.verify(bytes.fromhex(signed.signature), assertion.message)
            except InvalidSignature:
                raise _wrong("an assertion is not signed by the key in the measured configuration") from None
        for refused in answer.refused:
            _enter(found, asked, refused.key, None)
        return found


def unanswered(question: AuthorisationRequest, found: Iterable[str]) -> list[str]:
    """The keys that were asked about and not answered for."""
    answered = frozenset(found)
    return [key for key in question.keys if key not in answered]


def _enter(found: dict[str, Assertion | None], asked: frozenset[str], key: str, assertion: Assertion | None) -> None:
    if key not in asked:
        raise _wrong("it speaks of a key that was not asked about")
    if key in found:
        raise _wrong("it speaks twice of one key")
    found[key] = assertion


def _wrong(reason: str) -> Unavailable:
    return Unavailable(f"the control plane's answer is not taken: {reason}", code="unavailable.protocol")
