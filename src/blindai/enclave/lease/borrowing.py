"""Everything that one lease needs, put together from the configuration."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blindai.channel.calling import call
from blindai.enclave.lease.keeper import Keeper
from blindai.enclave.lease.model import LoanedModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blindai.channel.calling import CallingEnd
    from blindai.enclave.config import Custody, Limits
    from blindai.enclave.models.repository import Repository
    from blindai.enclave.running.inference import Inference
    from blindai.errors import BlindAIError


def borrow(
    custody: Custody,
    limits: Limits,
    end: CallingEnd,
    repository: Repository,
    inference: Inference,
    *,
    sealed_model: Path | None,
    refused: Callable[[BlindAIError], None],
) -> Keeper:
    """The keeper of the lease that `custody` names; nothing is contacted yet.

    Args:
        custody, limits: of the measured configuration.
        end: attests the calls to the custodian.
        repository: where the model goes once it is open.
        inference: runs models.
        sealed_model: its file; without one the custodian is asked for it.
        refused: told of every query that is refused for the lease's sake.
    """
    custodian = Ed25519PublicKey.from_public_bytes(bytes.fromhex(custody.public_key))
    connect = partial(call, end, custody.host, custody.port, custodian=custodian, audience=custody.lease)
    model = LoanedModel(custody, repository, inference, connect=connect, path=sealed_model)
    return Keeper(custody, end.keyset, connect, model, inference, refused=refused, places=limits.max_queued_runs)
