"""Five impostors, live. Each tries to get a patient's data from a client; each must end with an error and no byte."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.simulated.intel import Faults
from blindai.channel.gate import encoder
from blindai.channel.keyset import PrivateKeyset
from blindai.demo.enclaves import ThreadedEnclave, install_back_door, served
from blindai.demo.impostor import Accomplice, Answer, Impostor

# A gate request as the attacker would have recorded it some other day.
_OLD_REQUEST = encoder.encode({"v": 1, "mode": "fresh", "nonce": "5e" * 32})


@dataclass
class Trap:
    """An impostor at work: where the client is lured, and how many application bytes it has got so far."""

    address: str
    application_bytes: Callable[[], int]


@dataclass(frozen=True)
class Attack:
    """One attack: what it is called, what the attacker does, how to set it up, and the code that must refuse it."""

    title: str
    story: str
    trap: Callable[[], AbstractContextManager[Trap]]
    code: str


@contextmanager
def _other_code() -> Iterator[Trap]:
    with tempfile.TemporaryDirectory(prefix="blindai-demo-") as folder:
        loot = Path(folder, "loot")
        with served(install_back_door(Path(folder, "package"), loot)) as address:
            yield Trap(address, lambda: loot.stat().st_size if loot.exists() else 0)


@contextmanager
def _man_in_the_middle() -> Iterator[Trap]:
    with closing(ThreadedEnclave(SimulatedAttester())) as enclave:
        accomplice = Accomplice("127.0.0.1", enclave.port)
        yield from _impostor(accomplice.ask, PrivateKeyset(datetime.now(UTC)))


@contextmanager
def _stolen_key() -> Iterator[Trap]:
    with closing(ThreadedEnclave(SimulatedAttester())) as enclave:
        accomplice = Accomplice("127.0.0.1", enclave.port)
        yield from _impostor(accomplice.ask, enclave.end.identity().keyset)


@contextmanager
def _replay() -> Iterator[Trap]:
    with closing(ThreadedEnclave(SimulatedAttester())) as enclave:
        recorded = Accomplice("127.0.0.1", enclave.port).ask(_OLD_REQUEST)
        yield from _impostor(lambda _: recorded, enclave.end.identity().keyset)


@contextmanager
def _debug_enclave() -> Iterator[Trap]:
    attester = SimulatedAttester(faults=Faults(attributes=frozenset({"debug"})))
    with closing(ThreadedEnclave(attester)) as enclave:
        yield Trap(enclave.address, lambda: enclave.application_bytes)


def _impostor(answer: Answer, identity: PrivateKeyset) -> Iterator[Trap]:
    with Impostor(answer, identity) as impostor:
        yield Trap(impostor.address, lambda: impostor.application_bytes)


ATTACKS = (
    Attack(
        "an enclave that runs other code",
        "The operator adds a back door of a few lines to the server, and runs it in the same kind of enclave.",
        _other_code,
        "code.unknown",
    ),
    Attack(
        "a man in the middle with his own key",
        "He ends TLS himself, and passes on the attestation of a genuine enclave.",
        _man_in_the_middle,
        "binding.key",
    ),
    Attack(
        "a relay that stole the enclave's TLS key",
        "It holds the very private key of the enclave, and passes on evidence made this moment.",
        _stolen_key,
        "binding.exporter",
    ),
    Attack(
        "old evidence, replayed",
        "It holds the key too, and shows genuine evidence that it recorded earlier.",
        _replay,
        "binding.nonce",
    ),
    Attack(
        "a debug enclave",
        "The right code on the right platform, but in debug mode: its host can read its memory.",
        _debug_enclave,
        "platform.debug",
    ),
)
