"""The hospital: a process of its own that knows the enclave's address, a policy and its token, and nothing else.

It reads one question in each line of its input and writes one answer in each line of its output, in JSON. Its token
comes in the first line: neither arguments nor the environment are a place for it.
"""

from __future__ import annotations

import sys
import time

import msgspec

from blindai.client.connection import Connection
from blindai.demo.patients import load_patients
from blindai.errors import BlindAIError, BudgetExhausted


class Access(msgspec.Struct, frozen=True, tag="access"):
    """Where the enclave is, and what it must be.

    Attributes:
        policy: path of a manifest.
        token: of the consumer.
    """

    address: str
    policy: str
    token: str
    model_id: str


class Question(msgspec.Struct, frozen=True, tag="question"):
    """Diagnose one patient.

    Attributes:
        patient: row among the packaged patients.
        wait_seconds: for an approval, where the budget is used up.
    """

    patient: int
    wait_seconds: float | None = None


class Look(msgspec.Struct, frozen=True, tag="look"):
    """See how the lease stands. It costs nothing."""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the enclave said.

    Attributes:
        at: when it came, by the machine's monotonic clock, in seconds.
        malignant: probability, as the model gave it.
        code, message: of a refusal.
        used, granted, request: of a budget that is used up.
        state: of that request, or of the lease.
        soft_ms, hard_ms: of the lease: until no query starts, and until key and weights are wiped.
    """

    at: float
    malignant: float | None = None
    code: str = ""
    message: str = ""
    used: int = 0
    granted: int = 0
    request: str = ""
    state: str = ""
    soft_ms: int = 0
    hard_ms: int = 0


def main() -> None:
    """Answer until the input ends."""
    decoder = msgspec.json.Decoder(Access | Question | Look)
    access, client = None, None
    for line in sys.stdin.buffer:
        asked = decoder.decode(line)
        if isinstance(asked, Access):
            access = asked
            if client is not None:
                client.close()
                client = None
            continue
        if access is None:
            raise SystemExit("a question came before the address")
        try:
            if client is None:
                client = Connection(access.address, api_key=access.token, policy=access.policy, progress=False)
            answer = _look(client, access) if isinstance(asked, Look) else _ask(client, access, asked)
        except BudgetExhausted as error:
            answer = Answer(
                time.monotonic(),
                code=error.code,
                message=error.message,
                used=error.used,
                granted=error.granted,
                request=error.request_id,
                state=error.state,
            )
        except BlindAIError as error:
            answer = Answer(time.monotonic(), code=error.code, message=error.message)
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()


def _ask(client: Connection, access: Access, question: Question) -> Answer:
    row = load_patients().features[question.patient : question.patient + 1]
    prediction = client.predict(access.model_id, row, wait_for_budget=question.wait_seconds)
    return Answer(time.monotonic(), malignant=float(prediction.output[1].as_numpy()[0][1]))


def _look(client: Connection, access: Access) -> Answer:
    lease = client.lease(access.model_id)
    return Answer(time.monotonic(), state=lease.state, soft_ms=lease.soft_ms, hard_ms=lease.hard_ms)


if __name__ == "__main__":
    main()
