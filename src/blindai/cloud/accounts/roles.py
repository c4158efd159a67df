"""What each member of an account may do there."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from blindai.errors import PermissionDenied


class Role(StrEnum):
    """What a member is there for."""

    VIEWER = "viewer"
    DEVELOPER = "developer"
    ADMIN = "admin"


class Action(StrEnum):
    """What can be done in an account, as far as roles tell one from the other."""

    VIEW = "view"  # models, usage, members
    KEYS = "keys"  # see all of them, make some, revoke those that one has made
    ALL_KEYS = "all keys"  # revoke those of others
    AUDIT = "audit"  # the log
    MEMBERS = "members"  # their roles, removing them, invitations
    CLOSE = "close"


# The only place that says who may do what.
ALLOWED: Final[dict[Role, frozenset[Action]]] = {
    Role.VIEWER: frozenset({Action.VIEW}),
    Role.DEVELOPER: frozenset({Action.VIEW, Action.KEYS}),
    Role.ADMIN: frozenset(Action),
}


def require_role(role: Role, action: Action) -> None:
    """Refuse what a member with `role` may not do.

    Raises:
        PermissionDenied: `account.role`.
    """
    if action not in ALLOWED[role]:
        needed = " or ".join(role.value for role in Role if action in ALLOWED[role])
        raise PermissionDenied(f"you are {role} there; this needs the role {needed}", code="account.role")
