"""People: who they are, how they sign in, and how they take their leave."""

from blindai.cloud.identity.passkeys import Passkey
from blindai.cloud.identity.people import People
from blindai.cloud.identity.tokens import Token
from blindai.cloud.identity.users import User

__all__ = ["Passkey", "People", "Token", "User"]
