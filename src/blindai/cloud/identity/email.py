"""Addresses of people, in the one form in which they are stored and compared.

The rule is narrower than RFC 5322's: a dot-atom, "@", and a domain of at least two labels, all in ASCII. Quoted local
parts, comments and address literals are refused, and so is everything outside of ASCII, where two addresses that look
the same can be those of two people. A domain of another script has an ASCII form (RFC 5890, section 2.3.2.1).
"""

from __future__ import annotations

import re
from typing import Final

from blindai.errors import InvalidInput

# RFC 5321, sections 4.5.3.1.1 and 4.5.3.1.3 (less the brackets).
MAX_LOCAL_CHARACTERS: Final = 64
MAX_CHARACTERS: Final = 254

_ATOM: Final = r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"

# The last label is no number: a domain is no IP address (RFC 3696, section 2).
_ADDRESS: Final = re.compile(rf"({_ATOM}(?:\.{_ATOM})*)@(?:{_LABEL}\.)+(?![0-9]+\Z){_LABEL}", re.ASCII)


def normalised(email: str) -> str:
    """`email` without blanks around it and in small letters.

    Mail servers may tell capital letters in a local part apart (RFC 5321, section 2.4), and none is known to; people
    do not.

    Raises:
        InvalidInput: `identity.email`.
    """
    address = email.strip(" ")
    # `lower` turns some letters outside of ASCII into ASCII ones.
    found = _ADDRESS.fullmatch(address.lower()) if address.isascii() and len(address) <= MAX_CHARACTERS else None
    if found is None or len(found[1]) > MAX_LOCAL_CHARACTERS:
        raise InvalidInput(
            "this is no e-mail address that can be used",
            code="identity.email",
            hint="write it as name@example.org; a domain in another script has an ASCII form that begins with xn--",
        )
    return address.lower()
