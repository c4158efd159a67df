"""Accounts, their members, their API keys, and the log of all that."""

from blindai.cloud.accounts.accounts import Accounts
from blindai.cloud.accounts.audit import AuditEntry
from blindai.cloud.accounts.invitations import Invitation
from blindai.cloud.accounts.members import Member
from blindai.cloud.accounts.namespaces import AccountQuotas
from blindai.cloud.accounts.roles import Action, Role
from blindai.wire.cloud_api import Membership

__all__ = ["AccountQuotas", "Accounts", "Action", "AuditEntry", "Invitation", "Member", "Membership", "Role"]
