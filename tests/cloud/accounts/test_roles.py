"""Which role may do what."""

from __future__ import annotations

import pytest

from blindai.cloud.accounts.roles import ALLOWED, Action, Role, require_role
from blindai.errors import PermissionDenied


def test_each_role_may_do_what_the_one_before_it_may() -> None:
    viewer, developer, admin = (ALLOWED[role] for role in Role)
    assert viewer < developer < admin == set(Action)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("action", Action)
def test_what_is_not_allowed_is_refused(role: Role, action: Action) -> None:
    if action in ALLOWED[role]:
        require_role(role, action)
        return
    with pytest.raises(PermissionDenied) as caught:
        require_role(role, action)
    assert caught.value.code == "account.role"
    assert "admin" in caught.value.message
