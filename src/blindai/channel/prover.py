"""What makes evidence for a connection, whichever end opened it: attester, devices and measured configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from blindai.attestation.attesters.attester import ActivatingAttester, Attester, DeviceAttester
from blindai.attestation.evidence import DeviceEvidence, Evidence, TpmIdentity
from blindai.attestation.result import Mode
from blindai.channel import gate
from blindai.channel.keyset import PrivateKeyset
from blindai.channel.statement import (
    NO_DEVICES,
    VERSION,
    Role,
    Statement,
    config_digest,
    device_nonce,
    devices_digest,
)
from blindai.channel.tls import TLSPipe
from blindai.crypto.canonical import Canonical


class Proof(NamedTuple):
    """Evidence for one connection.

    Attributes:
        statement: what it commits to, with the digest of the devices that were attested with it.
        evidence: of the processor and the devices.
    """

    statement: Statement
    evidence: Evidence


class Prover:
    """Attests in one role.

    It computes every field of the statement itself: no caller chooses report_data.
    """

    def __init__(
        self, role: Role, attester: Attester, config: Mapping[str, Canonical], devices: DeviceAttester | None
    ) -> None:
        """`config` is the measured configuration; `devices` attests GPUs and switches beside the processor.

        Raises:
            ValueError: `config` is outside the canonical encoding.
        """
        self.attester = attester
        self.config = dict(config)
        self._role = role
        self._devices = devices
        self._activating = attester if isinstance(attester, ActivatingAttester) else None
        self.config_digest = config_digest(config)

    @property
    def simulated(self) -> bool:
        return self.attester.simulated or (self._devices is not None and self._devices.simulated)

    @property
    def quick(self) -> bool:
        """Whether an event loop may call `prove` and `activated` directly."""
        return self.attester.quick and (self._devices is None or self._devices.quick)

    @property
    def activates(self) -> bool:
        """Whether evidence is believed only after a credential was opened: this is a TPM."""
        return self._activating is not None

    def identity(self) -> TpmIdentity | None:
        """For whom a credential must be made before the evidence is believed; None where none is needed."""
        return None if self._activating is None else self._activating.identity()

    def activated(self, credential: gate.GateCredential) -> bytes:
        """What the credential holds. The TPM opens only one that was made for the key that signs our own evidence.

        So nothing is given away that was meant for another program on this machine.

        Raises:
            ValueError: it is for another TPM or key, or there is no TPM here.
        """
        if self._activating is None:
            raise ValueError("there is no TPM here that opens credentials")
        return self._activating.activate(credential.blob, credential.encrypted_secret)

    def statement(self, nonce: bytes, pipe: TLSPipe, keyset: PrivateKeyset) -> Statement:
        """What this end says about one connection; of devices, nothing yet."""
        return Statement(
            role=self._role,
            nonce=nonce.hex(),
            ekm=pipe.exported(nonce),
            spki_sha256=keyset.public.tls_spki_sha256,
            keyset_digest=keyset.digest,
            devices_digest=NO_DEVICES,
            config_digest=self.config_digest,
        )

    def prove(self, statement: Statement) -> Proof:
        """Evidence that commits to `statement` and to the devices.

        Raises:
            BlindAIError: the attester failed.
        """
        devices: tuple[DeviceEvidence, ...] = ()
        if self._devices is not None:
            devices = self._devices.attest(
                device_nonce(bytes.fromhex(statement.nonce), bytes.fromhex(statement.spki_sha256))
            )
            statement = msgspec.structs.replace(statement, devices_digest=devices_digest(devices))
        return Proof(statement, msgspec.structs.replace(self.attester.attest(statement.report_data), devices=devices))

    def shown(self, proof: Proof, keyset: PrivateKeyset, activated: bytes | None) -> gate.FreshAnswer:
        """The proof with all that is needed to recompute what it commits to."""
        return gate.FreshAnswer(
            v=VERSION,
            mode=Mode.FRESH,
            keyset=keyset.public,
            config=self.config,
            statement=proof.statement,
            evidence=msgspec.Raw(proof.evidence.encode()),
            activated=activated,
        )
