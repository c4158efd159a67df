"""The nursery, with processes of models that do what an honest one never would: `hostile_nursery.py CONDUCT N`.

They are forked and confined as all are. Then, asked to load a model, they carry out an attack and say how it went; or
they speak the protocol wrongly.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from blindai.enclave.engine import TensorSpec
from blindai.enclave.models.description import Description, Trial
from blindai.enclave.sandbox import nursery, worker
from blindai.enclave.sandbox.confinement import Bounds, confine
from blindai.enclave.sandbox.messages import (
    FRAME,
    MAX_ANSWER_TEXTS,
    Answer,
    Kind,
    Loaded,
    Refusal,
    TensorHead,
    encode,
    frame,
)

LIBC: Final = ctypes.CDLL(None, use_errno=True)
X86: Final = os.uname().machine == "x86_64"
PARENT: Final = "parent"

SPEC: Final = TensorSpec("x", "FP32", (-1, 2))
FLAG: Final = TensorSpec("flag", "BOOL", (-1,))
TEXT: Final = TensorSpec("text", "BYTES", (-1,))
HONEST: Final = Description((SPEC,), (SPEC, FLAG, TEXT), "hostile", 1, Trial("onnxruntime", 1, "float32", max_batch=4))

# As of a model that may run beside the server's secrets, whatever the model is.
BEST: Final = Trial("onnxruntime", 1, "float32", run_us=1.0, bounded=True)


def system_call(number: int, *arguments: object) -> None:
    if LIBC.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


class Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def read_memory_of(process: int) -> None:
    buffer = ctypes.create_string_buffer(8)
    vector = Vector(ctypes.addressof(buffer), 8)
    if LIBC.process_vm_readv(process, ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def map_memory(protection: int, flags: int) -> None:
    mmap.mmap(-1, mmap.PAGESIZE, flags=flags, prot=protection)


def make_executable() -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if LIBC.mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, 1 | 4):
        raise OSError(ctypes.get_errno(), "refused")


def take_memory() -> None:
    kept = [bytearray(64 << 20) for _ in range(64)]
    raise AssertionError(len(kept))


PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

ATTACKS: Final[dict[str, Callable[[int], object]]] = {
    "open": lambda parent: os.open("/etc/passwd", os.O_RDONLY),
    "create": lambda parent: os.open("/blindai-left", os.O_CREAT | os.O_WRONLY),
    "memory_of_the_parent": lambda parent: os.open(f"/proc/{parent}/mem", os.O_RDONLY),
    "environment_of_the_parent": lambda parent: os.open(f"/proc/{parent}/environ", os.O_RDONLY),
    "own_memory": lambda parent: os.open("/proc/self/mem", os.O_RDWR),
    "list": lambda parent: list(Path("/").iterdir()),
    "remove": lambda parent: Path("/nothing").unlink(),
    "change_root": lambda parent: os.chroot("/"),
    "socket": lambda parent: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "unix_socket": lambda parent: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "socketpair": lambda parent: socket.socketpair(),
    "pipe": lambda parent: os.pipe(),
    "fork": lambda parent: os.fork(),
    "execute": lambda parent: os.execv(sys.executable, [sys.executable]),  # noqa: S606 - it is to fail
    "signal_the_parent": lambda parent: os.kill(parent, signal.SIGKILL),
    "signal_the_group": lambda parent: os.killpg(os.getpid(), 0),
    "signal_a_thread_of_the_parent": lambda parent: system_call(234 if X86 else 131, parent, parent, signal.SIGTERM),
    "name_the_parent": os.pidfd_open,
    "trace_the_parent": lambda parent: system_call(101 if X86 else 117, 16, parent, 0, 0),
    "read_memory_of_the_parent": read_memory_of,
    "memory_file": lambda parent: os.memfd_create("more"),
    "executable_memory": lambda parent: map_memory(mmap.PROT_READ | mmap.PROT_EXEC, PRIVATE),
    "memory_made_executable": lambda parent: make_executable(),
    "shared_memory_beside_the_limit": lambda parent: map_memory(3, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS),
    "growing_stack_beside_the_limit": lambda parent: map_memory(3, PRIVATE | 0x100),
    "huge_pages_beside_the_limit": lambda parent: map_memory(3, PRIVATE | 0x40000),
    "raise_a_limit": lambda parent: system_call(302 if X86 else 261, 0, 2, struct.pack("=QQ", 1 << 50, 1 << 50), 0),
    "outlive_the_parent": lambda parent: system_call(157 if X86 else 167, 1, 0, 0, 0, 0),
    "priority": lambda parent: os.setpriority(os.PRIO_PROCESS, 0, 0),
    "namespace": lambda parent: system_call(272 if X86 else 97, 0x1000_0000),
    "user": lambda parent: os.setuid(1),
    "another_filter": lambda parent: system_call(317 if X86 else 277, 1, 0, 0),
    "kernel_programs": lambda parent: system_call(321 if X86 else 280, 0, 0, 0),
    "rings": lambda parent: system_call(425, 1, 0),
    "clone_with_flags_in_memory": lambda parent: system_call(435, 0, 0),
    "memory": lambda parent: take_memory(),
}


def outcome(attack: Callable[[int], object], parent: int) -> str:
    try:
        attack(parent)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    except MemoryError:
        return "MemoryError"
    return "done"


class Talker:
    """A process of a model that knows how to answer, and does it as it likes."""

    def __init__(self, channel: socket.socket, parent: int) -> None:
        self.channel = channel
        self.parent = parent
        _, descriptor = worker.receive(channel)
        self.lane = worker.connect(descriptor)
        self.memory = self.receive_slot()
        self.number = FRAME.unpack(worker.receive(self.lane)[0])[1]

    def receive_slot(self) -> mmap.mmap:
        data, descriptor = worker.receive(self.lane)
        return mmap.mmap(descriptor, FRAME.unpack(data)[4])

    def receive_run(self) -> None:
        self.number = FRAME.unpack(worker.receive(self.lane)[0])[1]

    def say(self, content: bytes, *, offset: int = 0) -> None:
        if len(content) > len(self.memory):
            self.lane.send(frame(Kind.GROW, self.number, figure=len(content)))
            self.memory = self.receive_slot()
        self.memory[offset : offset + len(content)] = content
        self.lane.send(frame(Kind.DONE, self.number, offset, len(content), 1))

    def load(self) -> None:
        self.say(encode(Loaded(HONEST)))
        self.receive_run()

    def answer(self, *heads: TensorHead) -> None:
        self.load()
        self.say(encode(Answer(list(heads))), offset=4096)


def renamed(**changes: object) -> bytes:
    return encode(Loaded(msgspec.structs.replace(HONEST, **changes)))


X = TensorHead("x", "FP32", (1, 2), 0, 8)
YES = TensorHead("flag", "BOOL", (1,), 64, 1)
WORD = TensorHead("text", "BYTES", (1,), 128, 4)


def sized(**changes: object) -> TensorHead:
    return msgspec.structs.replace(X, **changes)


def answer_after_growing(talker: Talker, *sizes: int) -> None:
    talker.load()
    for size in sizes:
        talker.lane.send(frame(Kind.GROW, talker.number, figure=size))
        talker.memory = talker.receive_slot()
    talker.say(encode(Answer([X, YES, WORD])), offset=4096)


def set_flag(talker: Talker) -> None:
    talker.load()
    talker.memory[64] = 2
    talker.say(encode(Answer([X, YES, WORD])), offset=4096)


def set_length(talker: Talker) -> None:
    talker.load()
    talker.memory[128:132] = struct.pack("<I", 9)
    talker.say(encode(Answer([X, YES, WORD])), offset=4096)


def answer_with_countless_texts(talker: Talker) -> None:
    talker.load()
    count = MAX_ANSWER_TEXTS + 1
    talker.lane.send(frame(Kind.GROW, talker.number, figure=8 * count))
    talker.memory = talker.receive_slot()
    texts = msgspec.structs.replace(WORD, shape=(count,), size=4 * count)
    talker.say(encode(Answer([X, YES, texts])), offset=7 * count)


def flood(talker: Talker) -> None:
    while True:
        talker.lane.send(bytes(100_000))


def tell_outcomes(talker: Talker) -> None:
    outcomes = [f"{name}={outcome(attack, talker.parent)}" for name, attack in ATTACKS.items()]
    half = len(outcomes) // 2
    talker.say(encode(Refusal("model.invalid", " ".join(outcomes[:half]), " ".join(outcomes[half:]))))


def hold_on(talker: Talker) -> None:
    talker.load()
    time.sleep(1000)


def describe_itself_again(talker: Talker) -> None:
    talker.load()
    talker.say(encode(Loaded(HONEST)))


def answer_twice(talker: Talker) -> None:
    talker.answer(X, YES, WORD)
    talker.lane.send(frame(Kind.DONE, talker.number))


def answer_unasked(talker: Talker) -> None:
    talker.say(encode(Loaded(HONEST)))
    talker.lane.send(frame(Kind.DONE, talker.number))


def refuse_strangely(talker: Talker) -> None:
    talker.load()
    talker.say(encode(Refusal("model.not_loaded", "gone")))


def hang_up(talker: Talker) -> None:
    talker.load()
    talker.lane.shutdown(socket.SHUT_RDWR)


LOADS: Final[dict[str, Callable[[Talker], object]]] = {
    "no_frame": lambda t: t.lane.send(b"hello"),
    "long_frame": lambda t: t.lane.send(frame(Kind.DONE, t.number) + b"!"),
    "flood": flood,
    "other_run": lambda t: t.lane.send(frame(Kind.DONE, t.number + 1)),
    "other_kind": lambda t: t.lane.send(frame(Kind.CANCEL, t.number)),
    "unknown_kind": lambda t: t.lane.send(FRAME.pack(99, t.number, 0, 0, 0)),
    "beyond_the_memory": lambda t: t.lane.send(frame(Kind.DONE, t.number, len(t.memory), 1)),
    "beyond_all_memory": lambda t: t.lane.send(frame(Kind.DONE, t.number, 2**64 - 1, 2**64 - 1)),
    "no_structure": lambda t: t.say(b"\xc1"),
    "empty_structure": lambda t: t.say(b""),
    "deep_structure": lambda t: t.say(b"\x91" * 60_000),
    "answer_to_a_load": lambda t: t.say(encode(Answer([]))),
    "foreign_code": lambda t: t.say(encode(Refusal("lease.stopped", "the lease was stopped"))),
    "long_message": lambda t: t.say(encode(Refusal("model.invalid", "x" * 2000))),
    "grow_without_bounds": lambda t: t.lane.send(frame(Kind.GROW, t.number, figure=2**40)),
    "grow_by_nothing": lambda t: t.lane.send(frame(Kind.GROW, t.number, figure=1)),
    "two_of_one_name": lambda t: t.say(renamed(inputs=(SPEC, SPEC))),
    "too_many": lambda t: t.say(renamed(inputs=(TensorSpec("", "FP32", ()),) * 10_001)),
    "unknown_datatype": lambda t: t.say(renamed(outputs=(TensorSpec("x", "FP8", (1,)),))),
    "negative_size": lambda t: t.say(renamed(outputs=(TensorSpec("x", "FP32", (-2,)),))),
    "high_rank": lambda t: t.say(renamed(outputs=(TensorSpec("x", "FP32", (1,) * 40),))),
    "negative_memory": lambda t: t.say(renamed(memory=-1)),
    "no_batch": lambda t: t.say(renamed(trial=Trial("e", 1, "p", max_batch=0))),
    "endless_gain": lambda t: t.say(renamed(trial=Trial("e", 1, "p", batch_gain=float("inf")))),
    "control_characters": lambda t: t.say(renamed(platform="\x1b[2J")),
    "exit": lambda t: os._exit(0),
    "abort": lambda t: os.abort(),
    "segmentation_fault": lambda t: ctypes.string_at(1),
    "foreign_numbers": lambda t: system_call(0x4000_0000),
}

RUNS: Final[dict[str, Callable[[Talker], object]]] = {
    "fewer": lambda t: t.answer(X, YES),
    "more": lambda t: t.answer(X, YES, WORD, X),
    "undescribed": lambda t: t.answer(sized(name="z")),
    "other_order": lambda t: t.answer(YES, X, WORD),
    "other_name": lambda t: t.answer(sized(name="z"), YES, WORD),
    "other_datatype": lambda t: t.answer(sized(datatype="INT32"), YES, WORD),
    "other_size": lambda t: t.answer(sized(size=4), YES, WORD),
    "other_shape": lambda t: t.answer(sized(shape=(3, 2)), YES, WORD),
    "negative_shape": lambda t: t.answer(sized(shape=(-1, -2)), YES, WORD),
    "huge_shape": lambda t: t.answer(sized(shape=(2**40, 2**40)), YES, WORD),
    "empty_huge_shape": lambda t: t.answer(sized(shape=(0, 2**62), size=0), YES, WORD),
    "high_rank": lambda t: t.answer(sized(shape=(1,) * 40 + (2,)), YES, WORD),
    "negative_offset": lambda t: t.answer(sized(offset=-8), YES, WORD),
    "negative_size": lambda t: t.answer(sized(size=-8), YES, WORD),
    "beyond": lambda t: t.answer(sized(offset=len(t.memory) - 4), YES, WORD),
    "far_beyond": lambda t: t.answer(sized(offset=2**62), YES, WORD),
    "more_than_there_is": lambda t: t.answer(
        sized(shape=(5000, 2), size=40_000), sized(name="flag", datatype="BOOL", shape=(40_000,), size=40_000), WORD
    ),
    "flag_of_two": set_flag,
    "countless_texts": answer_with_countless_texts,
    "text_beyond": set_length,
    "grow_twice": lambda t: answer_after_growing(t, 1 << 20, 1 << 21),
    "grow_beyond": lambda t: answer_after_growing(t, 1 << 40),
    "description": describe_itself_again,
    "twice": answer_twice,
    "unasked": answer_unasked,
    "foreign_code": refuse_strangely,
    "hang_up": hang_up,
}

CONDUCTS: Final[dict[str, Callable[[Talker], object]]] = {
    **{f"load.{name}": conduct for name, conduct in LOADS.items()},
    **{f"run.{name}": conduct for name, conduct in RUNS.items()},
    "silent": lambda t: time.sleep(1000),
    "deaf": hold_on,
    "boast": lambda t: t.say(renamed(trial=BEST)),
    "attacks": tell_outcomes,
}


def behave(channel: socket.socket, bounds: Bounds) -> None:
    parent = os.getppid()
    confine(bounds)
    conduct = CONDUCTS[sys.argv[0]]

    def talk() -> None:
        conduct(Talker(channel, parent))
        time.sleep(1000)

    threading.Thread(target=talk).start()
    time.sleep(1000)


def main() -> None:
    """As `nursery.main`."""
    Path("/proc/self/comm").write_text("hostile")
    sys.argv = sys.argv[1:]
    worker.main = behave
    nursery.main()


if __name__ == "__main__":
    main()
