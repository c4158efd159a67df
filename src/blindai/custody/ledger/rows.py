"""Rows of the tables as values with types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import sqlalchemy as sa


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row of a table whose columns are the fields of the subclass."""

    @classmethod
    def of(cls, row: sa.Row[Any]) -> Self:
        """The values of `row`."""
        return cls(**row._mapping)  # noqa: SLF001 - the underscore keeps the name free for columns; it is public
