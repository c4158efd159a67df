"""What a bundle says that takes text: the file `TASK_FILE`, beside the model and its tokenizer.

    {"task": "embed", "max_tokens": 256, "pooling": "mean", "normalize": true}
    {"task": "classify", "max_tokens": 512, "labels": ["negative", "positive"]}

Both ends read it: the client before it uploads, the enclave before it loads.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final

import msgspec

from blindai.errors import InvalidModel

TASK_FILE: Final = "blindai-task.json"
TOKENIZER_FILE: Final = "tokenizer.json"
"""The tokenizer, in the format of the `tokenizers` library."""

MAX_TASK_BYTES: Final = 1024 * 1024
"""Of the task file. With the most labels, each as long as it may be, it has less."""

MAX_TOKENIZER_BYTES: Final = 64 * 1024 * 1024
"""Of the tokenizer. The largest in use, with a quarter of a million words, have 35 MB."""

MAX_TOKENS: Final = 32_768
"""Of one text. Attention needs memory with the square of it; the longest encoders in use take 8,192."""

MAX_LABELS: Final = 4096
MAX_LABEL_CHARACTERS: Final = 128

TEXT: Final = "text"
"""The input of a bundle that takes text: BYTES [-1], each UTF-8."""

EMBEDDING: Final = "embedding"
"""The output of `embed`: FP32 [-1, d], one vector for each text."""

SCORES: Final = "scores"
"""The first output of `classify`: FP32 [-1, k], for each text a score of each label."""

LABEL: Final = "label"
"""The second output of `classify`: BYTES [-1], the label with the highest score."""

TOKENS: Final = "tokens"
"""The last output of both: INT32 [-1], how many tokens of each text the model has read."""

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_Label = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_LABEL_CHARACTERS)]


class TextTaskName(enum.StrEnum):
    """What is done with text."""

    EMBED = "embed"
    CLASSIFY = "classify"


class Pooling(enum.StrEnum):
    """How the vectors of a text's tokens become one: their mean, the first one, or the model has done it already."""

    MEAN = "mean"
    CLS = "cls"
    NONE = "none"


class Activation(enum.StrEnum):
    """How a classifier's logits become scores: exclusive labels, labels that each may hold, or they are scores."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    NONE = "none"


class TensorNames(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the model calls its tensors.

    Attributes:
        ids: the input that takes token ids.
        mask: the input that is 1 for each token that counts; it may be absent.
        types: the input that takes segment ids; it may be absent.
        output: the output that is used; empty for the model's first.
    """

    ids: _Name = "input_ids"
    mask: _Name = "attention_mask"
    types: _Name = "token_type_ids"
    output: Annotated[str, msgspec.Meta(max_length=256)] = ""


class TextTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The content of `TASK_FILE`.

    Attributes:
        task: what the model does with text.
        max_tokens: of one text, special tokens included; the rest of a longer text is cut off.
        pooling: of `embed`.
        normalize: of `embed`: whether each vector gets length 1.
        labels: of `classify`, in the order of the model's logits.
        activation: of `classify`.
        tensors: what the model calls its inputs and output, where not as most exporters do.
    """

    task: TextTaskName
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)] = 512
    pooling: Pooling = Pooling.MEAN
    normalize: bool = True
    labels: Annotated[tuple[_Label, ...], msgspec.Meta(max_length=MAX_LABELS)] = ()
    activation: Activation = Activation.SOFTMAX
    tensors: TensorNames = TensorNames()

    def __post_init__(self) -> None:
        if self.task is TextTaskName.CLASSIFY:
            if not self.labels:
                raise ValueError("a classifier has `labels`")
            if len(set(self.labels)) != len(self.labels):
                raise ValueError("`labels` has one twice")
            if self.pooling is not Pooling.MEAN or not self.normalize:
                raise ValueError("`pooling` and `normalize` are for `embed`")
        elif self.labels or self.activation is not Activation.SOFTMAX:
            raise ValueError("`labels` and `activation` are for `classify`")

    @classmethod
    def parse(cls, content: bytes | bytearray | memoryview) -> TextTask:
        """Read a task file. Strict: a misspelt member would otherwise change every answer.

        Raises:
            InvalidModel: `model.task_file`.
        """
        if len(content) > MAX_TASK_BYTES:
            raise refused_task(f"it has {len(content)} bytes, at most {MAX_TASK_BYTES} are accepted")
        try:
            return _decoder.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise refused_task(str(error)) from None

    def encode(self) -> bytes:
        """The task file."""
        return msgspec.json.format(_encoder.encode(self)) + b"\n"


_decoder = msgspec.json.Decoder(TextTask)
_encoder = msgspec.json.Encoder()


def refused_task(reason: str) -> InvalidModel:
    """The refusal of a task file, or of a model that is not what its task file says."""
    return InvalidModel(
        f"{TASK_FILE} was refused: {reason}",
        code="model.task_file",
        hint="docs/text.md lists what may stand in it",
    )
