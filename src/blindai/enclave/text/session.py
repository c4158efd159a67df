"""A model that takes text: a tokenizer before the session of the model, and a head behind it.

Texts of one request that have the same number of tokens run together, and no others. So nothing is ever padded, and
what the model answers for a text cannot depend on the texts beside it, if it gives the same bits for several rows as
for one; how many rows keep to that is found out when a model is tried out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from blindai.enclave.engine import Signature, TensorSpec
from blindai.enclave.models.description import Task
from blindai.enclave.text.head import head_of
from blindai.enclave.text.tokenizer import TextTokenizer, Tokens, refused_tokenizer
from blindai.errors import InvalidInput, InvalidModel, QuotaExceeded
from blindai.wire.datatype import DATATYPES
from blindai.wire.metadata import VARIABLE
from blindai.wire.task import TASK_FILE, TEXT, TOKENIZER_FILE, TOKENS, TextTask, refused_task
from blindai.wire.tensor import Tensor, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from blindai.enclave.engine import Cancellation, Session
    from blindai.enclave.text.head import Head
    from blindai.wire.tensor import Buffer

MAX_TEXTS: Final = 2048
"""Of one request, as in OpenAI's interface."""

MAX_TEXT_BYTES: Final = 128 * 1024
"""Of one text: sixteen bytes for each of the 8,192 tokens that the longest encoders in use read. The rest would be
tokenized to be cut off."""

_PROBED_TOKENS: Final = 2048
"""A model that may be given more tokens is tried with so many: what it needs grows with their square."""

_SLICE: Final = 64
"""Texts that are tokenized between two looks at whether anybody still wants the answer."""

_FLOATS: Final = frozenset({"FP16", "FP32", "FP64"})
_INTEGERS: Final = frozenset({"INT32", "INT64"})


def open_text(session: Session, files: Mapping[str, Buffer], *, rows: int = 1, probe: bool = True) -> TextSession:
    """What takes text for a model that takes token ids.

    Args:
        session: of the model. It belongs to what is returned, which closes it.
        files: those of the bundle; `wire.task.TASK_FILE` and `TOKENIZER_FILE` are read, and no view of them is kept.
        rows: how many texts may run together, every bit of every answer staying the same.
        probe: whether to find out if the model can read as many tokens as its task file says.

    Raises:
        InvalidModel: `model.task_file`, `model.tokenizer`; `model.text_unsupported` where the library is missing.
        QuotaExceeded: `quota.memory`, `quota.run_time`: reading as many tokens as its task file says takes too much.
    """
    if TASK_FILE not in files:
        raise refused_task("it is missing")
    if TOKENIZER_FILE not in files:
        raise refused_tokenizer("it is missing")
    task = TextTask.parse(files[TASK_FILE])
    return TextSession(session, task, TextTokenizer(files[TOKENIZER_FILE], task.max_tokens), rows=rows, probe=probe)


class TextCancellation:
    """Stops one run, which is several of the model; see `engine.Cancellation`."""

    __slots__ = ("_cancelled", "_current")

    def __init__(self) -> None:
        self._cancelled = False
        self._current: Cancellation | None = None

    def cancel(self) -> None:
        self._cancelled = True
        current = self._current
        if current is not None:
            current.cancel()

    def require_wanted(self) -> None:
        """Raises QuotaExceeded `quota.run_time` once it was cancelled."""
        if self._cancelled:
            raise QuotaExceeded("the run was stopped: it took too long", code="quota.run_time")

    def of(self, session: Session) -> Cancellation:
        """What stops the next run of the model. Raises as `require_wanted`."""
        # In this order, and in the other in `cancel`: whichever comes second sees what the first has done.
        current = self._current = session.cancellation()
        self.require_wanted()
        return current


class TextSession:
    """One loaded model that takes text; see `engine.Session`.

    Attributes:
        task: what it does.
        labels: of a classifier.
    """

    def __init__(
        self, session: Session, task: TextTask, tokenizer: TextTokenizer, *, rows: int = 1, probe: bool = True
    ) -> None:
        self._session = session
        self._tokenizer: TextTokenizer | None = tokenizer
        self._max_tokens = task.max_tokens
        self._model = _Model(session, task)
        self._rows = rows if self._model.any_rows else 1
        self._head = self._probed(task, longest=probe)
        self.task = Task(task.task)
        self.labels = task.labels
        self.memory = session.memory + tokenizer.memory
        self.inputs = (TensorSpec(TEXT, "BYTES", (VARIABLE,)),)
        self.optional: tuple[TensorSpec, ...] = ()
        self.outputs = (*self._head.outputs, TensorSpec(TOKENS, "INT32", (VARIABLE,)))
        self._signature = Signature(self.inputs, self.outputs)

    def cancellation(self) -> TextCancellation:
        return TextCancellation()

    def close(self) -> None:
        self._tokenizer = None
        self._session.close()

    def run(
        self,
        inputs: Mapping[str, Tensor],
        outputs: Sequence[str] = (),
        *,
        cancellation: Cancellation | None = None,
    ) -> list[Tensor]:
        """Runs the model on every text; see `engine.Session.run`.

        Raises:
            InvalidInput: `input.text` for a text without a token, besides what `Session.run` says.
            InvalidModel: `model.tokenizer`; `model.run`.
            QuotaExceeded: `quota.texts` for too many texts, `quota.text_size` for one that is too long.
        """
        self._signature.check_inputs(inputs)
        names = self._signature.select_outputs(outputs)
        stop = cancellation if isinstance(cancellation, TextCancellation) else TextCancellation()
        tokens = self._tokenized(_texts(inputs[TEXT]), stop)
        rows: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(tokens)
        for group in _groups(tokens, self._rows):
            length = len(tokens[group[0]].ids)
            given = self._model.run([tokens[index] for index in group], stop)
            for index, one in zip(group, given, strict=True):
                rows[index] = self._head.row(one, length)
        answers = dict(self._head.tensors(rows))
        counts = np.array([len(one.ids) for one in tokens], np.int32)
        answers[TOKENS] = Tensor(TOKENS, "INT32", counts)
        return [answers[name] for name in names]

    def _tokenized(self, texts: Sequence[str], stop: TextCancellation) -> list[Tokens]:
        tokenizer = self._tokenizer
        if tokenizer is None:
            raise ValueError("the session is closed")
        tokens: list[Tokens] = []
        for start in range(0, len(texts), _SLICE):
            stop.require_wanted()
            tokens += tokenizer.encode(texts[start : start + _SLICE])
        return tokens

    def _probed(self, task: TextTask, *, longest: bool) -> Head:
        """What the model gives for a text, looked at once; and whether it takes as many tokens as it should."""
        shortest = min(2, self._max_tokens)
        lengths = {shortest, min(self._max_tokens, _PROBED_TOKENS)} if longest else {shortest}
        head: Head | None = None
        for length in sorted(lengths):
            zeros = Tokens([0] * length, [0] * length)
            try:
                (given,) = self._model.run([zeros], TextCancellation())
            except InvalidModel as error:
                raise refused_task(f"the model cannot read {length} tokens: {error.message}") from None
            if head is None:
                head = head_of(task, given, length)
            else:
                head.row(given, length)
        if head is None:
            raise AssertionError("no length was tried")
        return head


class _Model:
    """The session of the model, as something that takes token ids.

    Attributes:
        any_rows: whether a run may have more than one row.
    """

    def __init__(self, session: Session, task: TextTask) -> None:
        names = task.tensors
        specs = {spec.name: spec for spec in session.inputs}
        if names.ids not in specs:
            raise refused_task(f"the model has no input {quoted(names.ids)}")
        for name in specs:
            if name not in {names.ids, names.mask, names.types}:
                raise refused_task(f"the model also needs an input {quoted(name)}, which has nothing to do with text")
        for spec in specs.values():
            _require_ids(spec)
        outputs = {spec.name: spec for spec in session.outputs}
        self._output = names.output or next(iter(outputs), "")
        if self._output not in outputs:
            raise refused_task(f"the model has no output {quoted(self._output)}")
        if outputs[self._output].datatype not in _FLOATS:
            raise refused_task(f"the output {quoted(self._output)} is {outputs[self._output].datatype}")
        self._session = session
        self._specs = specs
        self._names = names
        self.any_rows = all(not spec.ranked or spec.shape[0] == VARIABLE for spec in specs.values())

    def run(self, rows: Sequence[Tokens], stop: TextCancellation) -> Iterator[NDArray[Any]]:
        """What the model gives for each row; all have the same number of tokens.

        Raises:
            InvalidModel: `model.run`: the ids are its tokenizer's, not the caller's, so that all is its own fault.
            QuotaExceeded: as `engine.Session.run`.
        """
        inputs = {spec.name: self._input(spec, rows) for spec in self._specs.values()}
        try:
            (given,) = self._session.run(inputs, [self._output], cancellation=stop.of(self._session))
        except InvalidInput as error:
            raise InvalidModel(error.message, code="model.run") from None
        if not given.data.ndim or given.data.shape[0] != len(rows):
            message = f"the model gave an output of shape {list(given.data.shape)} for {len(rows)} texts"
            raise InvalidModel(message, code="model.run")
        return iter(given.data)

    def _input(self, spec: TensorSpec, rows: Sequence[Tokens]) -> Tensor:
        dtype = DATATYPES[spec.datatype].dtype
        if spec.name == self._names.ids:
            ids = np.array([row.ids for row in rows], np.int64)
            # A tokenizer may number its tokens as it likes. Wrapped around, they would be others.
            if dtype == np.int32 and ids.max() > np.iinfo(np.int32).max:
                raise InvalidModel("the tokenizer gives ids that the model cannot take", code="model.run")
            return Tensor(spec.name, spec.datatype, ids.astype(dtype, copy=False))
        if spec.name == self._names.types:
            return Tensor(spec.name, spec.datatype, np.array([row.types for row in rows], np.int64).astype(dtype))
        return Tensor(spec.name, spec.datatype, np.ones((len(rows), len(rows[0].ids)), dtype))


def _require_ids(spec: TensorSpec) -> None:
    if spec.datatype not in _INTEGERS:
        raise refused_task(f"the input {quoted(spec.name)} is {spec.datatype}, token ids are INT32 or INT64")
    if spec.ranked and (len(spec.shape) != 2 or spec.shape[0] not in {VARIABLE, 1} or spec.shape[1] != VARIABLE):
        raise refused_task(
            f"the input {quoted(spec.name)} has shape {list(spec.shape)}, and texts of any length need [-1, -1]"
        )


def _texts(tensor: Tensor) -> list[str]:
    items: list[bytes] = tensor.data.tolist()
    if len(items) > MAX_TEXTS:
        message = f"the request has {len(items)} texts, one request may have {MAX_TEXTS}"
        raise QuotaExceeded(message, code="quota.texts", hint="send them in several requests")
    texts = []
    for index, item in enumerate(items):
        if len(item) > MAX_TEXT_BYTES:
            message = f"text {index} has {len(item)} bytes, one text may have {MAX_TEXT_BYTES}"
            raise QuotaExceeded(message, code="quota.text_size", hint="the model reads only its beginning: cut it off")
        try:
            texts.append(item.decode())
        except UnicodeDecodeError:
            raise InvalidInput(f"text {index} is not UTF-8", code="input.bytes") from None
    return texts


def _groups(tokens: Sequence[Tokens], rows: int) -> Iterator[Sequence[int]]:
    """Which texts run together: those with as many tokens, at most `rows` of them."""
    by_length: dict[int, list[int]] = {}
    for index, one in enumerate(tokens):
        by_length.setdefault(len(one.ids), []).append(index)
    for indices in by_length.values():
        for start in range(0, len(indices), rows):
            yield indices[start : start + rows]
