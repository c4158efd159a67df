"""Text to token ids, by a stranger's `tokenizer.json`.

The library is Rust, and a file that was made to harm can have it panic, recurse or compile an expression that takes
for ever: what it raises is mapped here, and what it does not raise (memory, time, an abort) ends the process that it
runs in. So it belongs into the process of one model. Where it came from is never asked: no file but this one is read,
and nothing is fetched.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from blindai.errors import BlindAIError, InvalidInput, InvalidModel
from blindai.wire.task import MAX_TOKENIZER_BYTES, TOKENIZER_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from blindai.wire.tensor import Buffer

# Imported with this module: the process of a model, which reads the file, can open no other.
try:
    import tokenizers
except ModuleNotFoundError as error:
    if error.name != "tokenizers":  # it is there, and broken: its own words say more
        raise
    tokenizers = None  # type: ignore[assignment]  # it is an extra

MAX_MESSAGE: Final = 200
"""Characters kept of the library's own words."""

MEMORY_FACTOR: Final = 20
"""Bytes that a tokenizer holds for each byte of its file: BERT's, of 0.46 MB, takes 7.9 MB."""

# It would start threads of its own, as many as there are cores, in a process that has a core to itself at most.
os.environ["TOKENIZERS_PARALLELISM"] = "false"


class Tokens(NamedTuple):
    """One text as the model reads it.

    Attributes:
        ids: at least one, at most as many as the tokenizer may give.
        types: segment ids, one for each.
    """

    ids: Sequence[int]
    types: Sequence[int]


class TextTokenizer:
    """A tokenizer that cuts off what is too long, and pads nothing.

    Args:
        content: `tokenizer.json`.
        max_tokens: of one text, special tokens included.

    Raises:
        InvalidModel: `model.tokenizer`.
    """

    def __init__(self, content: Buffer, max_tokens: int) -> None:
        if len(content) > MAX_TOKENIZER_BYTES:
            raise refused_tokenizer(f"it has {len(content)} bytes, at most {MAX_TOKENIZER_BYTES} are accepted")
        self.memory = len(content) * MEMORY_FACTOR
        self._max_tokens = max_tokens
        with _guarded(refused_tokenizer):
            self._tokenizer = _parse(content)
            special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
            if special > max_tokens:
                raise refused_tokenizer(f"it adds {special} special tokens to each text, which may have {max_tokens}")
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(max_tokens, stride=0, strategy="longest_first", direction="right")
            # A template may name tokens that there are not, which shows only when it is used.
            self._tokenizer.encode_batch_fast([""])

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each text.

        Raises:
            InvalidInput: `input.text`, a text without any token.
            InvalidModel: `model.tokenizer`, it fails on one of these texts.
        """
        # What the library says then may repeat the text, and others may read it: several requests may be one run.
        with _guarded(lambda _: refused_tokenizer("it fails on one of these texts")):
            encoded = [Tokens(one.ids, one.type_ids) for one in self._tokenizer.encode_batch_fast(list(texts))]
        for tokens in encoded:
            if not tokens.ids:
                raise InvalidInput("a text has nothing in it that the model knows", code="input.text")
            if len(tokens.ids) > self._max_tokens:
                raise refused_tokenizer("it does not keep to the number of tokens that a text may have")
        return encoded


def refused_tokenizer(reason: str) -> InvalidModel:
    """The refusal of a tokenizer."""
    return InvalidModel(
        f"{TOKENIZER_FILE} was refused: {reason}",
        code="model.tokenizer",
        hint="save it with the `tokenizers` library, from the model that it belongs to",
    )


def _parse(content: Buffer) -> tokenizers.Tokenizer:
    if tokenizers is None:
        raise InvalidModel(
            "this enclave takes no models with a tokenizer: the library for it is not installed",
            code="model.text_unsupported",
            hint="install blindai[text] on the server, or upload the ONNX file alone and send token ids",
        )
    try:
        text = str(content, "utf-8")
    except UnicodeDecodeError:
        raise refused_tokenizer("it is not UTF-8") from None
    tokenizer = tokenizers.Tokenizer.from_str(text)
    if getattr(tokenizer.model, "dropout", None):
        raise refused_tokenizer("it drops merges at random (`dropout`), so that no answer could be had twice")
    return tokenizer


@contextlib.contextmanager
def _guarded(refusal: Callable[[str], BlindAIError]) -> Iterator[None]:
    """Turns what the library raises into a refusal."""
    try:
        yield
    except BlindAIError:
        raise
    except BaseException as error:
        # It raises Exception itself, for want of a class; Rust's panics derive from BaseException, and the class has
        # no module to import it from.
        panicked = type(error).__name__ == "PanicException"
        if not panicked and type(error) is not Exception and not isinstance(error, TypeError | ValueError):
            raise
        raise refusal("the library fails on it" if panicked else _clean(str(error))) from None


def _clean(message: str) -> str:
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in message).split())
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."
