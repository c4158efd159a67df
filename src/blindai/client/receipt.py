"""Receipts of predictions: checked when they come, saved, and verified by anyone later, offline.

A saved receipt holds what the enclave signed, the gate in which it proved the key that signs, and notes of whoever
asked: to whom, when, with what verdict. The enclave signs those notes too, without seeing them: the nonce of the
request is a digest of them. So no byte of the file can be changed later. It holds no input and no output, but their
digests: of values that can be guessed, a digest is no secret.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

import blindai
from blindai.attestation.result import AttestationResult, Check, Outcome
from blindai.channel.keyset import Keyset
from blindai.channel.saved_evidence import MAX_FILE_BYTES as MAX_EVIDENCE_BYTES
from blindai.channel.saved_evidence import SavedEvidence, Verdict, write_new
from blindai.channel.statement import NONCE_LENGTH
from blindai.channel.transcript import Transcript
from blindai.client.inputs import to_tensors
from blindai.client.prediction import Prediction
from blindai.crypto.digests import tagged_sha256
from blindai.errors import AttestationError, BlindAIError, InvalidInput, ReceiptError
from blindai.wire import receipt as wire
from blindai.wire.metadata import TensorMetadata
from blindai.wire.receipt import Hex32, Hex64, ReceiptBody, SignedReceipt, TensorDigest, tensors_digest
from blindai.wire.v2 import MAX_TENSORS

if TYPE_CHECKING:
    from blindai.attestation.policy import Policy
    from blindai.wire.tensor import Tensor
    from blindai.wire.v2 import InferResponse, Parameters

KIND: Final = "receipt"
VERSION: Final = 1

NONCE_DOMAIN: Final = "blindai/receipt-nonce/v1"

# Of one tensor's description: its name, at most as long as ONNX files in use have them, shape and digest, indented.
_MAX_TENSOR_BYTES: Final = 4096

MAX_FILE_BYTES: Final = MAX_EVIDENCE_BYTES + 2 * MAX_TENSORS * _MAX_TENSOR_BYTES

# What no audit of a receipt can find out.
UNKNOWABLE: Final = (
    "when it was: the time of the receipt is the enclave's host's, that of the record its recorder's",
    "who asked: a receipt is good in anyone's hands",
)

# The step under which checks of a receipt stand; those of the attestation have their own.
STEP: Final = "receipt"

# The checks of a receipt in order, and how each is called on a screen; `receipt.` and the key is the code.
CHECKS: Final[dict[str, str]] = {
    "keyset": "receipt key of the attested keyset",
    "signature": "signed with the receipt key",
    "nonce": "made for this request and record",
    "config": "configuration of the receipt",
    "platform": "platform of the receipt",
    "time": "time of the receipt",
    "model": "model of the receipt",
    "input": "input digest",
    "output": "output digest",
}


class SavedReceipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file.

    Attributes:
        kind: tells this file from others that can be audited.
        v: version of the format.
        blindai: the release that wrote it.
        address: whom the client meant to reach.
        asked: when it asked, by its own clock.
        verdict: on the gate, then.
        gate: in which the enclave proved its keys.
        salt: 32 random bytes that nobody knew before; with them the nonce follows from what stands above.
        receipt, signature: of the enclave.
        inputs, outputs: what the two digests of the receipt are of.
    """

    kind: str = KIND
    v: int = VERSION
    blindai: str
    address: str
    asked: Annotated[datetime, msgspec.Meta(tz=True)]
    verdict: Verdict
    gate: Transcript
    salt: Hex32
    receipt: ReceiptBody
    signature: Hex64
    inputs: tuple[TensorDigest, ...]
    outputs: tuple[TensorDigest, ...]

    @property
    def evidence(self) -> SavedEvidence:
        """The gate as a file of its own."""
        return SavedEvidence(blindai=self.blindai, address=self.address, verdict=self.verdict, gate=self.gate)

    @property
    def nonce(self) -> str:
        """The nonce that follows from record and salt, in hex."""
        return _nonce(_Record(self.blindai, self.address, self.asked, self.verdict, self.gate), self.salt)

    def encode(self) -> bytes:
        """As indented JSON, for people to look at."""
        return msgspec.json.format(_encoder.encode(self), indent=1) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> SavedReceipt:
        """Strictly parse what `encode` wrote.

        Raises:
            InvalidInput: `input.saved_receipt`; of another version, or no such file at all.
        """
        if len(data) > MAX_FILE_BYTES:
            raise _unreadable(f"it has more than {MAX_FILE_BYTES} bytes")
        try:
            saved = _decoder.decode(data)
            if (saved.kind, saved.v) != (KIND, VERSION):
                raise _unreadable(
                    f"this release reads files of kind {KIND!r}, version {VERSION}, "
                    f"and this one is of kind {saved.kind!r}, version {saved.v}"
                )
            return msgspec.structs.replace(saved, gate=_compact(saved.gate))
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, OverflowError, RecursionError) as error:
            raise _unreadable(str(error)) from error


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit of a receipt found.

    Attributes:
        checks: of the receipt; those of the gate stand in `result`.
        at: the time by which certificates and collateral were judged.
        result: the verdict on the gate, as far as one was reached.
        error: the first refusal; None where everything holds.
        outdated: why the gate would be refused today, as a code; empty where it would not.
    """

    checks: tuple[Check, ...]
    at: datetime
    result: AttestationResult | None = None
    error: BlindAIError | None = None
    outdated: str = ""


class Receipt:
    """An enclave's signed word on one prediction, with all that is needed to check it.

    Attributes:
        saved: all of it, as it stands in a file.
    """

    __slots__ = ("saved",)

    def __init__(self, saved: SavedReceipt) -> None:
        self.saved = saved

    @property
    def model(self) -> str:
        """`namespace/name`."""
        return self.saved.receipt.model

    @property
    def version(self) -> str:
        return self.saved.receipt.version

    @property
    def model_digest(self) -> str:
        """SHA-256 of the body that was uploaded, in hex; of a model on loan, of what its custodian lent."""
        return self.saved.receipt.model_digest

    @property
    def input_digest(self) -> str:
        """As `wire.receipt.tensors_digest`."""
        return self.saved.receipt.input_digest

    @property
    def output_digest(self) -> str:
        """As `wire.receipt.tensors_digest`."""
        return self.saved.receipt.output_digest

    @property
    def nonce(self) -> str:
        """32 bytes in hex."""
        return self.saved.receipt.nonce

    @property
    def keyset(self) -> Keyset:
        """The enclave's keys, to which its evidence commits."""
        return self.saved.gate.keyset

    @property
    def evidence(self) -> Transcript:
        """The gate in which the enclave proved them."""
        return self.saved.gate

    @property
    def grant_digest(self) -> str | None:
        """Of the custodian's grant under which a model on loan ran."""
        return self.saved.receipt.grant_digest

    @property
    def time(self) -> datetime:
        """When it was, as the enclave's host has it."""
        return self.saved.receipt.time

    @property
    def simulated(self) -> bool:
        """Whether the platform protects nothing."""
        return self.saved.receipt.simulated

    def __repr__(self) -> str:
        simulated = ", SIMULATED" if self.simulated else ""
        return f"<Receipt {self.model} version {self.version}, {self.time:%Y-%m-%dT%H:%M:%SZ}{simulated}>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a new file, for `load` and for `blindai audit`.

        Raises:
            ConfigurationError: `configuration.save_exists`, `configuration.save`.
        """
        write_new(Path(path), self.saved.encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Receipt:
        """Read what `save` wrote. Nothing of it is verified yet.

        Raises:
            InvalidInput: `input.saved_receipt`.
        """
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise _unreadable(str(error)) from error
        return cls(SavedReceipt.decode(data))

    def verify(
        self, policy: Policy, *, inputs: Any = None, outputs: Any = None, at: datetime | None = None
    ) -> AttestationResult:
        """Verify all of it, offline, and return the verdict on the enclave. It is judged as of when the client asked.

        Args:
            policy: which enclaves are accepted.
            inputs: what was sent, as `predict` takes it; None where only its digest matters.
            outputs: the `Prediction`, or its values in the form of `inputs`.
            at: judge certificates and collateral as of another time.

        Raises:
            AttestationError: the enclave is refused.
            ReceiptError: `receipt.*`.
        """
        audit = self.audit(policy, inputs=inputs, outputs=outputs, at=at)
        if audit.error is not None:
            raise audit.error
        if audit.result is None:
            raise ReceiptError("no verdict on the enclave was reached", code="receipt.refused")
        return audit.result

    def audit(self, policy: Policy, *, inputs: Any = None, outputs: Any = None, at: datetime | None = None) -> Audit:
        """As `verify`, but every check is made and told. Raises nothing for a refusal."""
        saved = self.saved
        moment = saved.asked if at is None else at
        result, error = _judged(saved, policy, moment)
        checks = _Checks()
        _check_signed(checks, saved.receipt, saved.signature, saved.gate)
        checks.compare("nonce", saved.nonce, saved.receipt.nonce, "the record was changed, or is of another request")
        _check_claims(checks, saved.receipt, saved.gate, simulated=None if result is None else result.simulated)
        _check_tensors(checks, "input", saved.receipt.input_digest, saved.inputs, inputs)
        _check_tensors(checks, "output", saved.receipt.output_digest, saved.outputs, outputs)
        outdated = ""
        if error is None and at is None:
            _, today = _judged(saved, policy, datetime.now(UTC))
            outdated = "" if today is None else today.code
        return Audit(checks=checks.made, at=moment, result=result, error=error or checks.error, outdated=outdated)


@dataclass(frozen=True, slots=True)
class ReceiptRequest:
    """One request for a receipt, on one attested connection.

    Attributes:
        model, version: what is asked; None for whichever version is the newest.
        sent: the inputs.
        result: the verdict on the connection.
        record: the notes that the nonce is a digest of.
        salt: with these 32 bytes, in hex.
    """

    model: str
    version: str | None
    sent: tuple[TensorDigest, ...]
    result: AttestationResult
    record: _Record
    salt: str

    @classmethod
    def on(
        cls,
        gate: Transcript,
        result: AttestationResult,
        *,
        address: str,
        now: datetime,
        model: str,
        version: str | None,
        sent: Iterable[Tensor],
    ) -> ReceiptRequest:
        """Ask on a connection with the verdict `result`, whose keys were attested in `gate`."""
        record = _Record(
            blindai.__version__,
            address,
            now,
            Verdict(result.status, policy_digest=result.policy_digest),
            _compact(gate),
        )
        salt = secrets.token_hex(NONCE_LENGTH)
        return cls(model, version, tuple(map(TensorDigest.of, sent)), result, record, salt)

    @property
    def parameters(self) -> Parameters:
        """Of the request."""
        return {wire.NONCE: _nonce(self.record, self.salt), wire.KEYSET: self.record.gate.statement.keyset_digest}

    def answered(self, response: InferResponse) -> Receipt:
        """The receipt that came with `response`, verified: it is of this connection, this request and this answer.

        Raises:
            ReceiptError: `receipt.missing`, `receipt.malformed`, and as in `CHECKS`.
        """
        text = response.parameters.get(wire.RECEIPT)
        if not isinstance(text, str):
            raise ReceiptError(
                "the enclave answered without a receipt",
                code="receipt.missing",
                hint="it may run a release that signs none",
            )
        try:
            signed = SignedReceipt.decode(text)
        except (ValueError, RecursionError) as error:
            raise ReceiptError(f"the receipt cannot be read: {error}", code="receipt.malformed") from error
        receipt, outputs = signed.receipt, tuple(TensorDigest.of(tensor) for tensor in response.outputs)
        checks = _Checks()
        _check_signed(checks, receipt, signed.signature, self.record.gate)
        checks.compare("nonce", _nonce(self.record, self.salt), receipt.nonce, "it is of another request")
        _check_claims(checks, receipt, self.record.gate, simulated=self.result.simulated)
        wanted = f"{self.model} version {self.version or response.model_version}"
        answered = f"{response.model_name} version {response.model_version}"
        ran = f"{receipt.model} version {receipt.version}"
        checks.compare("model", wanted, ran if ran != wanted else answered, "it is of another model")
        _check_tensors(checks, "input", receipt.input_digest, self.sent, None)
        _check_tensors(checks, "output", receipt.output_digest, outputs, None)
        if checks.error is not None:
            raise checks.error
        return Receipt(
            SavedReceipt(
                **msgspec.structs.asdict(self.record),
                salt=self.salt,
                receipt=receipt,
                signature=signed.signature,
                inputs=self.sent,
                outputs=outputs,
            )
        )


class _Record(msgspec.Struct, frozen=True):
    """The part of the file to which the nonce commits, in the order in which it is digested."""

    blindai: str
    address: str
    asked: datetime
    verdict: Verdict
    gate: Transcript


class _Checks:
    """Makes every check, and keeps the first refusal."""

    def __init__(self) -> None:
        self._made: list[Check] = []
        self.error: ReceiptError | None = None

    @property
    def made(self) -> tuple[Check, ...]:
        return tuple(self._made)

    def compare(self, name: str, expected: str, got: str, refusal: str) -> None:
        """Both are shown; `refusal` says in words what it means that they differ."""
        self.note(name, expected, got, refusal if got != expected else "")

    def note(self, name: str, expected: str, got: str, refusal: str) -> None:
        """A check that was made; it failed where there is a refusal."""
        code = f"receipt.{name}" if refusal else ""
        outcome = Outcome.FAIL if refusal else Outcome.PASS
        self._made.append(Check(step=STEP, name=CHECKS[name], outcome=outcome, code=code, expected=expected, got=got))
        if refusal and self.error is None:
            self.error = ReceiptError(
                f"the receipt does not hold: {refusal}", code=code, check=CHECKS[name], expected=expected, got=got
            )

    def skip(self, name: str, why: str) -> None:
        self._made.append(Check(step=STEP, name=CHECKS[name], outcome=Outcome.SKIP, got=why))


def _judged(
    saved: SavedReceipt, policy: Policy, at: datetime
) -> tuple[AttestationResult | None, AttestationError | None]:
    """The verdict on the gate of `saved`, as of `at`."""
    try:
        result = saved.evidence.audit(policy, at=at)
        result.require_valid(at)
    except AttestationError as error:
        return error.result, error
    except (ValueError, OverflowError, OSError) as error:
        return None, AttestationError(
            f"the record cannot be what any enclave committed to: {error}", code="binding.record", step="binding"
        )
    return result, None


def _check_signed(checks: _Checks, receipt: ReceiptBody, signature: str, gate: Transcript) -> None:
    """That the receipt key of the gate's keyset has signed."""
    try:
        digest = gate.keyset.digest
    except ValueError as error:
        digest = f"none: {error}"
    checks.compare("keyset", digest, receipt.keyset_digest, "it is signed with keys that were not attested here")
    expected = f"a signature by {gate.keyset.receipt_key}"
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(gate.keyset.receipt_key))
        key.verify(bytes.fromhex(signature), receipt.message)
    except (InvalidSignature, ValueError):
        checks.note("signature", expected, "one that does not verify", "the enclave did not sign this")
    else:
        checks.note("signature", expected, signature, "")


def _check_claims(checks: _Checks, receipt: ReceiptBody, gate: Transcript, *, simulated: bool | None) -> None:
    """That what the enclave says of itself is what was attested."""
    checks.compare(
        "config", gate.statement.config_digest, receipt.config_digest, "the enclave has another configuration"
    )
    said = _platform(simulated=receipt.simulated)
    if simulated is None:
        checks.skip("platform", f"{said}, says the receipt; no evidence was read")
    else:
        checks.compare(
            "platform", _platform(simulated=simulated), said, "its platform is another than the evidence is of"
        )
    last = datetime.fromtimestamp(wire.MAX_TIME_MS / 1000, UTC)
    expires = min(last, _expiry(gate.keyset) or last)
    checks.note(
        "time",
        f"before {_utc(expires)}",
        f"{_utc(receipt.time)}, as claimed by the enclave",
        "" if receipt.time < expires else "the keys that signed had run out",
    )


def _check_tensors(checks: _Checks, name: str, signed: str, digests: Sequence[TensorDigest], values: Any) -> None:
    """That `digests` are what was signed, and `values`, where they are there, what `digests` are of."""
    try:
        digest = tensors_digest(digests)
    except ValueError as error:
        digest = f"none: {error}"
    if digest != signed:
        checks.note(name, signed, digest, f"the {name} is another than the enclave signed")
        return
    refusal = "" if values is None else _difference(digests, values)
    checks.note(name, signed, f"{digest}{'' if values is None else ', of the values given'}", refusal)


def _difference(digests: Sequence[TensorDigest], values: Any) -> str:
    """Why `values` are not what `digests` are of; empty where they are."""
    if isinstance(values, Prediction):
        values = {output.name: output.as_numpy() for output in values.output}
    declared = [TensorMetadata(digest.name, digest.datatype, digest.shape) for digest in digests]
    try:
        given = [TensorDigest.of(tensor) for tensor in to_tensors(values, declared)]
    except InvalidInput as error:
        return error.message
    differing = [have.name for have, want in zip(given, digests, strict=True) if have != want]
    return f"{', '.join(map(repr, differing))} has other values" if differing else ""


def _compact(gate: Transcript) -> Transcript:
    """The same gate without white space in its evidence: evidence is held to a size, and digested."""
    return msgspec.structs.replace(gate, evidence=msgspec.Raw(msgspec.json.format(bytes(gate.evidence), indent=-1)))


def _nonce(record: _Record, salt: str) -> str:
    digest = hashlib.sha256(_encoder.encode(record)).hexdigest()
    return tagged_sha256(NONCE_DOMAIN, {"record": digest, "salt": salt})


def _platform(*, simulated: bool) -> str:
    return "SIMULATED" if simulated else "hardware"


def _expiry(keyset: Keyset) -> datetime | None:
    try:
        return keyset.expires_at
    except (ValueError, OverflowError, OSError):
        return None


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def is_receipt(data: bytes) -> bool:
    """Whether a file says of itself that it is a receipt."""
    try:
        return _kind_decoder.decode(data).kind == KIND
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


class _Kind(msgspec.Struct, frozen=True):
    kind: str = ""


def _unreadable(reason: str) -> InvalidInput:
    return InvalidInput(f"this is no saved receipt that can be audited: {reason}", code="input.saved_receipt")


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(SavedReceipt)
_kind_decoder = msgspec.json.Decoder(_Kind)
