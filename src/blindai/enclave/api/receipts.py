"""Signs receipts for the requests that ask for one.

A request asks with the parameter `receipt_nonce`, and may say with `receipt_keyset` by which keyset: keys are renewed
while old connections go on, and a client can rely on no other keyset than that of its own connection.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from blindai.errors import InvalidInput, Unavailable
from blindai.wire import receipt as wire
from blindai.wire.receipt import ReceiptBody, SignedReceipt, TensorDigest, tensors_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from blindai.channel.keyset import PrivateKeyset
    from blindai.enclave.models.model_version import ModelVersion
    from blindai.wire.custody import Grant
    from blindai.wire.tensor import Tensor
    from blindai.wire.v2 import Parameters

_HEX_32: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Signer(Protocol):
    """Whose keys sign: `channel.end.AttestedEnd`."""

    @property
    def simulated(self) -> bool: ...

    @property
    def config_digest(self) -> str: ...

    def receipt_keyset(self, digest: str | None) -> PrivateKeyset | None:
        """The keyset of this digest while a connection of it is open; the present one for None."""


class Wanted(NamedTuple):
    """A receipt that a request asked for.

    Attributes:
        nonce: of the client, in hex.
        keyset: signs it.
    """

    nonce: str
    keyset: PrivateKeyset


class Receipts:
    """Makes receipts.

    Args:
        signer: without one, every request for a receipt is refused.
        grant: tells the newest grant of the model on loan, where there is one.
    """

    def __init__(self, signer: Signer | None, *, grant: Callable[[], Grant | None]) -> None:
        self._signer = signer
        self._grant = grant
        self._granted: tuple[Grant | None, str] = (None, "")

    def wanted(self, parameters: Mapping[str, object]) -> Wanted | None:
        """What a request with these parameters asks for; None where that is no receipt.

        Raises:
            InvalidInput: `input.receipt_nonce`, `input.receipt_keyset`; `input.receipt`, this server has no keys.
        """
        if wire.NONCE not in parameters:
            if wire.KEYSET in parameters:
                raise InvalidInput(
                    f"the parameter {wire.KEYSET} is of no use without {wire.NONCE}", code="input.receipt_nonce"
                )
            return None
        nonce = _hex_32(parameters, wire.NONCE, "input.receipt_nonce")
        digest = _hex_32(parameters, wire.KEYSET, "input.receipt_keyset") if wire.KEYSET in parameters else None
        if self._signer is None:
            raise InvalidInput("this server is not attested, and signs no receipts", code="input.receipt")
        keyset = self._signer.receipt_keyset(digest)
        if keyset is None:
            raise InvalidInput(
                f"{wire.KEYSET} names a keyset that no connection of this enclave has",
                code="input.receipt_keyset",
                hint="leave it out, or name the keyset of this connection",
            )
        return Wanted(nonce, keyset)

    def signed(
        self, wanted: Wanted, version: ModelVersion, inputs: Iterable[Tensor], outputs: Iterable[Tensor]
    ) -> Parameters:
        """The parameters of the response in which the receipt travels. May be called from any thread.

        Args:
            wanted: by the request.
            version: the model that ran.
            inputs, outputs: as they were sent, and as they will be answered.

        Raises:
            Unavailable: `lease.waiting`; a model on loan ran, and there is no grant any more.
        """
        if self._signer is None:
            raise ValueError("nothing is wanted of a server that signs no receipts")
        body = ReceiptBody(
            v=wire.VERSION,
            model=version.model_name,
            version=version.number,
            model_digest=version.sha256,
            input_digest=tensors_digest(map(TensorDigest.of, inputs)),
            output_digest=tensors_digest(map(TensorDigest.of, outputs)),
            nonce=wanted.nonce,
            keyset_digest=wanted.keyset.digest,
            config_digest=self._signer.config_digest,
            simulated=self._signer.simulated,
            time_ms=time.time_ns() // 1_000_000,
            grant_digest=self._grant_digest() if version.leased else None,
        )
        return {wire.RECEIPT: SignedReceipt(body, wanted.keyset.sign(body.message).hex()).encode()}

    def _grant_digest(self) -> str:
        grant = self._grant()
        if grant is None:
            raise Unavailable("the model on loan has no grant", code="lease.waiting")
        known, digest = self._granted
        if known is not grant:
            digest = grant.digest
            self._granted = (grant, digest)
        return digest


def _hex_32(parameters: Mapping[str, object], name: str, code: str) -> str:
    value = parameters[name]
    if not isinstance(value, str) or _HEX_32.fullmatch(value) is None:
        raise InvalidInput(f"the parameter {name} takes 32 bytes in lower-case hex", code=code)
    return value
