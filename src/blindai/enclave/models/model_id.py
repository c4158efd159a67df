"""Names of models: `namespace/name` and a version number, strict so that no two spellings mean one model."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from blindai.errors import InvalidInput

# Lower case and ASCII only: names stay distinct on every file system, in every log and to every eye.
_PART: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", re.ASCII)
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)

MAX_VERSION: Final = 999_999_999

RULE: Final = (
    "namespace/name, each of 1 to 64 characters out of a-z, 0-9, '.', '_' and '-', "
    "starting and ending with a letter or digit, without '..'"
)


class ModelId(NamedTuple):
    """A model's name, checked; make one with `parse_model_id`."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def parse_model_id(namespace: str, name: str) -> ModelId:
    """Check both parts of a model's name.

    Raises:
        InvalidInput: `model.id`. The text is not repeated, as it may be anything.
    """
    for part in (namespace, name):
        if _PART.fullmatch(part) is None or ".." in part:
            raise InvalidInput("this is not the id of a model", code="model.id", hint=f"an id is {RULE}")
    return ModelId(namespace, name)


def parse_version(text: str) -> int:
    """Read a version: a decimal number from 1 to 999999999 without leading zeros.

    Raises:
        InvalidInput: `model.version`.
    """
    if _VERSION.fullmatch(text) is None:
        raise InvalidInput(
            "this is not the version of a model", code="model.version", hint='versions are "1", "2" and so on'
        )
    return int(text)
