"""What the server and the process of a model say to each other, and the bounds of what the server believes.

Each lane, one run at a time, is a socket that keeps messages apart and a piece of memory that both sides see (`slot`).
A message is a `FRAME` of fixed size. What it is about lies in that memory: tensors, and behind them the structures
below, in MessagePack, of which the frame says where they are. On a channel of its own the server asks for new lanes and
to break runs off; the process never speaks there.
"""

from __future__ import annotations

import enum
import math
import struct
from typing import TYPE_CHECKING, Final

import msgspec

from blindai.enclave.config import Runtime
from blindai.enclave.model_file.onnx_file import MAX_VALUES
from blindai.enclave.models.description import Description, Trial
from blindai.errors import BlindAIError, InvalidInput, InvalidModel, QuotaExceeded
from blindai.wire.datatype import DATATYPES
from blindai.wire.tensor import MAX_RANK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blindai.enclave.engine import TensorSpec

FRAME: Final = struct.Struct("<IIQQQ")
"""A `Kind`, the number of the run, where its structure begins, how many bytes it has, and one figure more."""

MAX_HEADER_BYTES: Final = 16 << 20
"""One structure. The description of a model with as many inputs as it may have takes a small part of it."""

MAX_TEXT: Final = 1000
"""Characters of a message or hint."""

MAX_NAME: Final = 65_536
"""Characters of the name of an input or output, or of a label."""

MAX_LABELS: Final = 100_000
"""Labels of a classifier. The largest public ones have some 20,000."""

MAX_ANSWER_BYTES: Final = 256 << 20
"""Outputs of one run, four times as much as a request may send by default. The server holds them while it sends."""


MAX_ANSWER_TEXTS: Final = 1 << 18
"""Elements of BYTES in the outputs of one run. The server takes them apart one by one, on its event loop."""

EXIT_FAULT: Final = 70
"""Status of a process in which something went wrong that no code stands for."""

EXIT_MEMORY: Final = 71
"""Status of a process that found no memory to say that it has found none."""


class Kind(enum.IntEnum):
    """What a frame means."""

    LOAD = 1  # server: open the model that is in the file sent with it; figure: its bytes
    RUN = 2  # server
    SLOT = 3  # server: the memory of this lane is the file sent with it from now on; figure: its bytes
    DONE = 4  # process: figure: nanoseconds that the engine took
    GROW = 5  # process: the answer needs more memory; figure: how many bytes
    LANE = 6  # server, on the channel: here is the socket of another lane
    CANCEL = 7  # server, on the channel: break off this run; figure: of which lane


class TensorHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A tensor in the memory of a lane: its binary form begins at `offset`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    offset: int
    size: int


class LoadRequest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How to open a model."""

    bundle: bool
    runtime: Runtime
    trial_ms: int
    trial: Trial | None


class RunRequest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One run."""

    inputs: list[TensorHead]
    outputs: list[str]


class Loaded(msgspec.Struct, frozen=True, tag=0, array_like=True, forbid_unknown_fields=True):
    """The model is open."""

    description: Description


class Answer(msgspec.Struct, frozen=True, tag=1, array_like=True, forbid_unknown_fields=True):
    """The run has succeeded."""

    outputs: list[TensorHead]


class Refusal(msgspec.Struct, frozen=True, tag=2, array_like=True, forbid_unknown_fields=True):
    """It was refused."""

    code: str
    message: str
    hint: str = ""


class Fork(msgspec.Struct, frozen=True, tag="fork", forbid_unknown_fields=True):
    """To the nursery: a process for a model, please. Its channel is the file sent with this.

    Attributes:
        number: what the answers call it.
        data_bytes, lanes, executable: as `confinement.Bounds`.
    """

    number: int
    data_bytes: int
    lanes: int
    executable: bool


class Ready(msgspec.Struct, frozen=True, tag="ready", forbid_unknown_fields=True):
    """From the nursery: it can begin. A process that it has tried to confine said `refused`; empty where it worked."""

    refused: str


class Born(msgspec.Struct, frozen=True, tag="born", forbid_unknown_fields=True):
    """From the nursery: a process, or 0 where there can be none. Its descriptor (pidfd_open(2)) is sent with this."""

    number: int
    process: int


class Died(msgspec.Struct, frozen=True, tag="died", forbid_unknown_fields=True):
    """From the nursery: a process has ended.

    Attributes:
        number: as in `Fork`.
        status: as wait(2) gives it.
        peak_bytes: the most memory that it had.
    """

    number: int
    status: int
    peak_bytes: int


class ProtocolError(Exception):
    """The process of a model has said what no honest one says."""


_RUNTIME: Final[Mapping[str, type[BlindAIError]]] = {
    "quota.load_time": QuotaExceeded,
    "quota.model_size": QuotaExceeded,
    "quota.run_memory": QuotaExceeded,
    "quota.run_time": QuotaExceeded,
    "quota.text_size": QuotaExceeded,
    "quota.texts": QuotaExceeded,
    "input.bytes": InvalidInput,
    "input.datatype": InvalidInput,
    "input.missing": InvalidInput,
    "input.name": InvalidInput,
    "input.run": InvalidInput,
    "input.shape": InvalidInput,
    "input.size": InvalidInput,
    "input.text": InvalidInput,
    "input.too_long": InvalidInput,
    "input.unsupported": InvalidInput,
    "input.value": InvalidInput,
}
_MODEL: Final = (
    "bundle", "damaged", "empty", "external_data_missing", "external_data_nested", "external_data_path", "invalid",
    "not_onnx", "op_domain", "run", "task_file", "text_unsupported", "tokenizer", "too_complex", "truncated",
    "unsupported_operator", "unsupported_type",
)  # fmt: skip

REFUSALS: Final[Mapping[str, type[BlindAIError]]] = {**_RUNTIME, **{f"model.{word}": InvalidModel for word in _MODEL}}
"""The codes that the process of a model may refuse with, and what each is raised as."""

# Where there is no memory for it is known here: in the process of one model.
_TRANSLATED: Final = {"quota.memory": "quota.run_memory"}

_encoder: Final = msgspec.msgpack.Encoder()
_load_requests: Final = msgspec.msgpack.Decoder(LoadRequest)
_run_requests: Final = msgspec.msgpack.Decoder(RunRequest)
_replies: Final[msgspec.msgpack.Decoder[Loaded | Answer | Refusal]] = msgspec.msgpack.Decoder(Loaded | Answer | Refusal)

_nursery: Final = msgspec.msgpack.Decoder(Ready | Born | Died)
_forks: Final = msgspec.msgpack.Decoder(Fork)

encode = _encoder.encode
decode_fork = _forks.decode
decode_nursery = _nursery.decode
decode_load = _load_requests.decode
decode_run = _run_requests.decode


def decode_reply(header: bytes) -> Loaded | Answer | Refusal:
    """What a process has answered.

    Raises:
        ProtocolError: it is no answer.
    """
    try:
        return _replies.decode(header)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("what it answered cannot be read") from error


def refusal_of(error: BlindAIError) -> Refusal | None:
    """What the process of a model says of an error; None where that is no refusal of one."""
    code = _TRANSLATED.get(error.code, error.code)
    if code not in REFUSALS:
        return None
    return Refusal(code, _shortened(error.message), _shortened(error.hint))


def error_of(refusal: Refusal) -> BlindAIError:
    """The error that a refusal stands for.

    Raises:
        ProtocolError: for a code that is not in `REFUSALS`, and for a text that is too long.
    """
    kind = REFUSALS.get(refusal.code)
    if kind is None or len(refusal.message) > MAX_TEXT or len(refusal.hint) > MAX_TEXT:
        raise ProtocolError("its refusal is none that it may give")
    return kind(_printable(refusal.message), code=refusal.code, hint=_printable(refusal.hint))


def check_description(description: Description) -> None:
    """Raises ProtocolError unless a model can be so."""
    groups = (description.inputs, description.optional, description.outputs)
    if max(len(description.inputs) + len(description.optional), len(description.outputs)) > MAX_VALUES:
        raise ProtocolError("it describes more inputs or outputs than a model may have")
    for specs in groups:
        for spec in specs:
            _check_spec(spec)
    accepted = [spec.name for spec in (*description.inputs, *description.optional)]
    produced = [spec.name for spec in description.outputs]
    if len(set(accepted)) != len(accepted) or len(set(produced)) != len(produced):
        raise ProtocolError("it describes two values of one name")
    trial = description.trial
    figures = [
        trial.run_us,
        trial.batch_gain,
        *(figure for c in trial.candidates for figure in (c.run_us, c.difference)),
    ]
    texts = [description.platform, trial.engine, trial.precision]
    texts += [text for c in trial.candidates for text in (c.engine, c.precision, c.refused)]
    honest = (
        description.memory >= 0
        and 1 <= trial.max_batch <= MAX_TEXT
        and all(math.isfinite(figure) and figure >= 0 for figure in figures)
        and all(len(text) <= MAX_TEXT and (not text or text.isprintable()) for text in texts)
        and len(description.labels) <= MAX_LABELS
        and all(len(label) <= MAX_NAME for label in description.labels)
        and all(len(shape) <= MAX_RANK and min(shape, default=0) >= 0 for shape in trial.shapes.values())
        and len(trial.candidates) <= MAX_TEXT
    )
    if not honest:
        raise ProtocolError("its description is out of bounds")


def _check_spec(spec: TensorSpec) -> None:
    if (
        spec.datatype not in DATATYPES
        or len(spec.name) > MAX_NAME
        or len(spec.shape) > MAX_RANK
        or any(size < -1 for size in spec.shape)
    ):
        raise ProtocolError("it describes a value that no tensor can be")


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def frame(kind: Kind, run: int = 0, offset: int = 0, length: int = 0, figure: int = 0) -> bytes:
    """A frame in its bytes."""
    return FRAME.pack(kind, run, offset, length, figure)


def parse(data: bytes) -> tuple[int, int, int, int, int]:
    """The five numbers of a frame.

    Raises:
        ProtocolError: it is none.
    """
    if len(data) != FRAME.size:
        raise ProtocolError("it sent no frame")
    return FRAME.unpack(data)
