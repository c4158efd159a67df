"""A mixed load for half an hour: steady clients, uploads and deletions, hostile models, clients that go away.

One real server in a process of its own. Every answer is compared with what the model gives by itself; the server must
be the same process at the end, and what it and the processes of its models hold in memory must not grow. What is asked
of it is drawn from a seed, and everything is bounded: by time, and each client by one request at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psutil
from onnx import helper
from processes import started
from rawclient import RawClient

import blindai
from blindai.attestation.measure.local import local_policy
from blindai.errors import BlindAIError

if TYPE_CHECKING:
    from numpy.typing import NDArray
from enclave_server import looping_model, node_model
from hostile_models import ATTACKS

# A model for each way to be run: beside the server, in a process of its own, alone because of its loop.
STEADY: Final = ("tiny", "wide", "looping")

# What a bomb may take here, so that half an hour has room for many.
CONFIGURATION: Final = """\
[limits]
model_memory_bytes = 1073741824
model_process_bytes = 1073741824

[timeouts]
run_ms = 2000
load_ms = 8000
body_ms = 3000
head_ms = 3000
"""

# What may happen to requests of a client who does nothing wrong while others fill the server: it is told to come back.
BUSY: Final = frozenset({"busy", "quota.queue", "quota.memory"})

SAMPLE_SECONDS: Final = 5.0

# Of the samples of memory the first part is for warming up.
WARM_UP: Final = 0.25

# Growth over the whole run that counts as none: allocators take memory in steps and keep it. See `soak`.
TOLERATED_BYTES: Final = 16 << 20
TOLERATED_DESCRIPTORS: Final = 8


def weights(seed: int, rows: int, columns: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def linear(matrix: NDArray[np.float32]) -> bytes:
    """Y = x W."""
    return node_model(helper.make_node("MatMul", ["x", "w"], ["y"]), w=matrix)


class Siege:
    """All clients, and what they saw.

    Attributes:
        seen: how often what happened.
        wrong: what should not have happened, in words.
    """

    def __init__(self, address: str, seed: int) -> None:
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._address = address
        self._policy = local_policy()
        self._seed = seed
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        plans: list[tuple[Callable[[random.Random], None], float]] = [
            *((self._steady(kind, number), 0.005) for number, kind in enumerate(STEADY * 2)),
            (self._upload, 0.3),
            (self._upload, 0.3),
            (self._bomb, 2.0),
            (self._leave, 0.2),
        ]
        for number, (act, pause) in enumerate(plans):
            thread = threading.Thread(target=self._keep_on, args=(act, pause, number), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
            if thread.is_alive():
                self.wrong.append("a client still waits for an answer, a minute after the end")

    def _keep_on(self, act: Callable[[random.Random], None], pause: float, number: int) -> None:
        chance = random.Random(self._seed * 1000 + number)
        while not self._over.is_set():
            try:
                act(chance)
            except BlindAIError as error:
                if error.code in BUSY:
                    self.seen[f"told to come back: {error.code}"] += 1
                else:
                    self.wrong.append(f"{getattr(act, '__name__', act)}: {error.code}: {error.message}")
            self._over.wait(pause * chance.random() * 2)

    def _connect(self) -> blindai.Connection:
        return blindai.Connection(self._address, policy=self._policy, progress=False, timeout=60)

    def _steady(self, kind: str, number: int) -> Callable[[random.Random], None]:
        """A client with one connection and a model of its own."""
        connection = self._connect()
        model_id = f"steady{number}/{kind}"
        matrix = weights(number, 64, 8) if kind != "wide" else weights(number, 512, 2048)
        connection.upload_model(looping_model() if kind == "looping" else linear(matrix), model_id=model_id)

        def ask(chance: random.Random) -> None:
            rows = chance.choice((1, 1, 1, 2, 5))
            values = np.random.default_rng(chance.getrandbits(32)).random((rows, len(matrix)), np.float32)
            answer = connection.predict(model_id, values).output[0].as_numpy()
            # The loop takes as many turns as its largest input says, rounded down: none.
            right = values if kind == "looping" else values @ matrix
            self._judge(model_id, answer, right)
            self.seen[f"answers of a {kind} model"] += 1

        ask.__name__ = model_id
        return ask

    def _judge(self, what: str, answer: NDArray[Any], right: NDArray[Any]) -> None:
        if answer.shape != right.shape or not np.allclose(answer, right, rtol=1e-3, atol=1e-3):
            self.wrong.append(f"{what}: a wrong answer")

    def _upload(self, chance: random.Random) -> None:
        """A new model, asked once or twice, and then perhaps deleted."""
        seed = chance.getrandbits(16)
        model_id = f"passing{seed % 7}/model-{seed % 31}"
        matrix = weights(seed, 64, chance.choice((8, 64, 1024)))
        with self._connect() as connection:
            uploaded = connection.upload_model(linear(matrix), model_id=model_id)
            values = np.random.default_rng(seed).random((1, 64), np.float32)
            for _ in range(chance.randint(1, 3)):
                try:
                    answer = connection.predict(model_id, values, version=uploaded.version)
                except blindai.ModelNotFound:
                    self.seen["a model that the other uploader had deleted"] += 1
                    return
                self._judge(model_id, answer.output[0].as_numpy(), values @ matrix)
            self.seen["uploads"] += 1
            if chance.random() < 0.9:
                try:
                    connection.delete_model(model_id)
                except blindai.ModelNotFound:
                    return
                self.seen["deletions"] += 1

    def _bomb(self, chance: random.Random) -> None:
        attack = chance.choice(ATTACKS)
        model_id = f"hostile/model-{chance.getrandbits(20)}"
        with self._connect() as connection:
            try:
                connection.upload_model(attack.build(), model_id=model_id)
                if attack.query is not None:
                    connection.predict(model_id, attack.query)
                self.seen["bombs that were answered"] += 1
            except BlindAIError as error:
                expected = attack.upload | attack.run | BUSY
                if error.code not in expected:
                    self.wrong.append(f"{attack.name}: {error.code}: {error.message}")
                self.seen[f"bombs refused: {error.code}"] += 1
            with contextlib.suppress(blindai.ModelNotFound):
                connection.delete_model(model_id)

    def _leave(self, chance: random.Random) -> None:
        """Somebody goes away in the middle of a request, or of its answer."""
        client = RawClient(int(self._address.rpartition(":")[2]))
        try:
            client.open_gate()
            body = bytes(chance.randint(100, 100_000))
            head = "POST /v2/models/steady1/wide/infer HTTP/1.1\r\nHost: localhost\r\n"
            whole = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
            client.send(whole[: chance.randint(1, len(whole))])
        except OSError as error:
            self.wrong.append(f"a client that leaves could not come: {error}")
        finally:
            client.close()
        self.seen["clients that left"] += 1


def siege(minutes: float, seed: int) -> bool:
    """Run it and print what was seen; whether all of it was right."""
    from soak import growth

    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "blindai.toml"
        configuration.write_text(CONFIGURATION)
        command = [sys.executable, "-m", "blindai", "serve", "--platform", "simulated-tdx", "--port", "0", "--json"]
        with started([*command, "--config", str(configuration)]) as server:
            besieged = Siege(str(server.said["address"]), seed)
            process = psutil.Process(server.pid)
            memory: list[int] = []
            models: list[int] = []
            descriptors: list[int] = []
            besieged.start()
            end = time.monotonic() + minutes * 60
            while time.monotonic() < end and process.is_running() and len(besieged.wrong) < 100:
                time.sleep(min(SAMPLE_SECONDS, max(0.1, end - time.monotonic())))
                memory.append(process.memory_info().rss)
                models.append(sum(map(_own, process.children(recursive=True))))
                descriptors.append(process.num_fds())
            besieged.stop()
            alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    for what, count in sorted(besieged.seen.items()):
        print(f"  {count:8,}  {what}")
    start = int(len(memory) * WARM_UP)
    rise, held = growth(memory[start:]), growth(descriptors[start:])
    print(f"  seed {seed}, {minutes:g} minutes; server restarts: {0 if alive else 1}; wrong: {len(besieged.wrong)}")
    for line in besieged.wrong[:20]:
        print(f"    {line}")
    print(f"  server  MiB {_series(memory)}; growth {rise / 2**20:+.1f} (tolerated {TOLERATED_BYTES >> 20})")
    print(f"  models  MiB {_series(models)}; most {max(models) / 2**20:.0f}")
    print(f"  server's descriptors {descriptors[start]} -> {descriptors[-1]}, growth {held:+.1f}")
    return alive and not besieged.wrong and rise <= TOLERATED_BYTES and held <= TOLERATED_DESCRIPTORS


def _own(process: psutil.Process) -> int:
    """Bytes of a model's process that it shares with nobody."""
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:
        return 0


def _series(values: list[int]) -> str:
    return " ".join(f"{value / 2**20:.0f}" for value in values[:: max(1, len(values) // 12)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=20261121)
    options = parser.parse_args()
    logging.getLogger("blindai").setLevel(logging.ERROR)
    return 0 if siege(options.minutes, options.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
