"""What the enclave needs from the TEE it runs in."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from blindai.attestation.evidence import TEE, DeviceEvidence, Evidence, TpmIdentity


class Attester(Protocol):
    """Makes evidence about the code that calls it.

    Attributes:
        tee: the TEE that signs.
        simulated: no hardware stands behind the evidence. Whoever shows the evidence must say so.
        quick: `attest` takes microseconds and waits for nothing, so an event loop may call it directly.
    """

    @property
    def tee(self) -> TEE: ...

    @property
    def simulated(self) -> bool: ...

    @property
    def quick(self) -> bool: ...

    def attest(self, report_data: bytes) -> Evidence:
        """Have `report_data`, exactly 64 bytes, signed by the TEE; endorsements come with it.

        Raises:
            ValueError: `report_data` is not 64 bytes.
        """


@runtime_checkable
class ActivatingAttester(Attester, Protocol):
    """An attester whose key nothing vouches for until the relying party has challenged it: a TPM.

    The relying party encrypts a credential to the identity, and appraises evidence with what came back
    (`evidence.Activation`).
    """

    def identity(self) -> TpmIdentity:
        """The keys with which evidence will be made from now on, and the certificates of the endorsement key."""

    def activate(self, blob: bytes, encrypted_secret: bytes) -> bytes:
        """Open a credential (`credential.Credential`) that was made for the identity: the secret in it.

        Raises:
            ValueError: it was made for another TPM or key, or changed on the way.
        """


class DeviceAttester(Protocol):
    """Makes evidence about the GPUs and switches beside the processor; `simulated` and `quick` as in `Attester`."""

    @property
    def simulated(self) -> bool: ...

    @property
    def quick(self) -> bool: ...

    def attest(self, nonce: bytes) -> tuple[DeviceEvidence, ...]:
        """Have `nonce`, exactly 32 bytes, signed by every device, always in the same order.

        Raises:
            ValueError: `nonce` is not 32 bytes.
            Unavailable: `attester.failed`; a device did not answer.
        """
