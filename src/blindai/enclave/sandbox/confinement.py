"""What the process of a model may still do once it has begun: compute, and answer. Linux only.

A seccomp filter lists the system calls that remain; every other one fails with EPERM. There is none among them that
opens a file, makes a socket, starts a program, or looks at or signals another process. Limits of the kernel bound
memory, descriptors and files. Nothing of this can be undone by the process or what it starts.

Sources: seccomp(2), prctl(2), setrlimit(2), capabilities(7); linux/seccomp.h, linux/filter.h and linux/audit.h for the
values; the system call tables of x86-64 and of the generic ABI, which aarch64 has.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

if sys.platform == "linux":
    import resource

NICE: Final = 5
"""Niceness of the processes of models: the server, which serves all of them, comes first."""

_DESCRIPTORS: Final = 16
"""Open files besides those of the lanes: the channel, statm, the body and its map, and what is being replaced."""

_DESCRIPTORS_PER_LANE: Final = 4
"""A socket, the memory of the tensors, its map, and another while it is replaced."""

# Options of prctl(2), from linux/prctl.h.
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_SET_NO_NEW_PRIVS: Final = 38

# linux/capability.h
_CAPABILITY_VERSION_3: Final = 0x20080522

# Operations, flags and results of seccomp(2), from linux/seccomp.h.
_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_GET_ACTION_AVAIL: Final = 2
_SECCOMP_FILTER_FLAG_TSYNC: Final = 1
_KILL_PROCESS: Final = 0x8000_0000
_ERRNO: Final = 0x0005_0000
_ALLOW: Final = 0x7FFF_0000
_REFUSED: Final = _ERRNO | errno.EPERM
_MISSING: Final = _ERRNO | errno.ENOSYS

# struct seccomp_data: where its fields begin. Of the arguments only the low halves are looked at: no kernel reads more
# of those that are examined here.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16
_INSTRUCTION: Final = struct.Struct("=HBBI")
_MAX_JUMP: Final = 255

# Classic BPF (linux/bpf_common.h).
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

# x86-64 has a second set of numbers from here on, which no rule below is made for.
_X32: Final = 0x4000_0000

_PROT_EXEC: Final = 4
_MAP_SHARED: Final = 0x01
_MAP_ANONYMOUS: Final = 0x20
# Memory that RLIMIT_DATA does not count: stacks that grow by themselves, and huge pages set aside.
_MAP_UNCOUNTED: Final = 0x100 | 0x4_0000  # MAP_GROWSDOWN | MAP_HUGETLB
# What pthread_create of glibc asks of clone(2): a thread and nothing else. musl adds CLONE_DETACHED, without meaning.
_CLONE_THREAD: Final = 0x3D_0F00
_CLONE_DETACHED: Final = 0x40_0000
_F_DUPFD_CLOEXEC: Final = 1030
_ARCH_XCOMP_PERM: Final = (0x1022, 0x1023)  # asks for the tile registers of AMX


class Machine(NamedTuple):
    """What differs between processors.

    Attributes:
        audit: its number in linux/audit.h.
        numbers: of the system calls named in this module; those it does not have are left out.
    """

    audit: int
    numbers: Mapping[str, int]


_X86_64: Final = Machine(
    0xC000_003E,
    {
        "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11,
        "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17, "readv": 19,
        "writev": 20, "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35, "getpid": 39, "sendto": 44,
        "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "shutdown": 48, "clone": 56, "exit": 60, "uname": 63,
        "fcntl": 72, "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102,
        "getgid": 104, "geteuid": 107, "getegid": 108, "sigaltstack": 131, "prctl": 157, "arch_prctl": 158,
        "gettid": 186, "time": 201, "futex": 202, "sched_getaffinity": 204, "set_tid_address": 218,
        "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231,
        "tgkill": 234, "ppoll": 271, "set_robust_list": 273, "prlimit64": 302, "getcpu": 309, "seccomp": 317,
        "getrandom": 318, "membarrier": 324, "rseq": 334, "clone3": 435, "capset": 126,
    },
)  # fmt: skip

_AARCH64: Final = Machine(
    0xC000_00B7,
    {
        "read": 63, "write": 64, "close": 57, "fstat": 80, "lseek": 62, "mmap": 222, "mprotect": 226, "munmap": 215,
        "brk": 214, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "pread64": 67, "readv": 65,
        "writev": 66, "sched_yield": 124, "mremap": 216, "madvise": 233, "nanosleep": 101, "getpid": 172,
        "sendto": 206, "recvfrom": 207, "sendmsg": 211, "recvmsg": 212, "shutdown": 210, "clone": 220, "exit": 93,
        "uname": 160, "fcntl": 25, "gettimeofday": 169, "getrlimit": 163, "getrusage": 165, "sysinfo": 179,
        "times": 153, "getuid": 174, "getgid": 176, "geteuid": 175, "getegid": 177, "sigaltstack": 132, "prctl": 167,
        "gettid": 178, "futex": 98, "sched_getaffinity": 123, "set_tid_address": 96, "restart_syscall": 128,
        "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115, "exit_group": 94, "tgkill": 131,
        "ppoll": 73, "set_robust_list": 99, "prlimit64": 261, "getcpu": 168, "seccomp": 277, "getrandom": 278,
        "membarrier": 283, "rseq": 293, "clone3": 435, "capset": 91,
    },
)  # fmt: skip

MACHINES: Final[Mapping[str, Machine]] = {"x86_64": _X86_64, "aarch64": _AARCH64}

# Calls that have no argument worth a look: they change or read the caller alone, or go through what is open already.
_PLAIN: Final = (
    "futex", "recvmsg", "sendto", "read", "write", "madvise", "munmap", "brk", "clock_gettime", "sched_yield",
    "mremap", "getcpu", "pread64", "poll", "ppoll", "sendmsg", "recvfrom", "close", "fstat", "lseek", "readv", "writev",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "nanosleep", "clock_nanosleep", "clock_getres",
    "gettimeofday", "time", "times", "getpid", "gettid", "getuid", "getgid", "geteuid", "getegid", "getrlimit",
    "getrusage", "sysinfo", "uname", "sched_getaffinity", "set_tid_address", "set_robust_list", "rseq", "membarrier",
    "restart_syscall", "getrandom", "shutdown", "exit", "exit_group",
)  # fmt: skip


class Bounds(NamedTuple):
    """What one process of a model may use.

    Attributes:
        data_bytes: memory of its own that it may take, besides what it has when it is confined.
        lanes: runs at once.
        executable: whether it may make memory executable: an engine that compiles needs that.
    """

    data_bytes: int
    lanes: int
    executable: bool


def require_confinement() -> None:
    """Raises ConfigurationError `configuration.isolation` where the system cannot confine a process."""
    if sys.platform != "linux":
        raise refuse_isolation(f"{sys.platform} has no confinement for processes that is known here")
    machine = MACHINES.get(platform.machine())
    if machine is None:
        raise refuse_isolation(f"the numbers of system calls on {platform.machine()} are not known here")
    libc = ctypes.CDLL(None, use_errno=True)
    for action in (_ERRNO, _KILL_PROCESS):
        value = ctypes.c_uint32(action)
        if libc.syscall(machine.numbers["seccomp"], _SECCOMP_GET_ACTION_AVAIL, 0, ctypes.byref(value)):
            raise refuse_isolation(f"the kernel refuses seccomp: {os.strerror(ctypes.get_errno())}")
    if not hasattr(libc, "memfd_create"):
        raise refuse_isolation("the C library has no memfd_create")


def refuse_isolation(reason: str) -> ConfigurationError:
    """The error for a system that cannot run models in processes of their own."""
    return ConfigurationError(
        f"models cannot run in confined processes: {reason}",
        code="configuration.isolation",
        hint='where all models are trusted, set isolation = "thread" in the section [runtime]',
    )


def leave_family(parent: int) -> None:
    """Die with the process `parent`, be no part of its process group, and leave nothing behind for a debugger.

    In a process that was just forked. It ends at once where the parent has gone already.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    os.setpgid(0, 0)
    _prctl(libc, _PR_SET_PDEATHSIG, 9)
    if os.getppid() != parent:
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(libc, _PR_SET_DUMPABLE, 0)
    # Where the system has no memory left, it takes that of a model first.
    Path("/proc/self/oom_score_adj").write_text("1000")


def confine(bounds: Bounds) -> None:
    """Give up, for good and on all threads, whatever running a model does not need.

    Raises:
        OSError: the kernel refuses one of these; then the process must end.
    """
    machine = MACHINES[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    os.nice(NICE)
    data = int(Path("/proc/self/statm").read_bytes().split()[5]) * resource.getpagesize()
    descriptors = _DESCRIPTORS + _DESCRIPTORS_PER_LANE * bounds.lanes
    for limit, wanted in (
        # RLIMIT_AS would count what is only reserved, and an engine reserves much.
        (resource.RLIMIT_DATA, data + bounds.data_bytes),
        (resource.RLIMIT_NOFILE, descriptors),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(limit, (most, most))
    _drop_capabilities(libc, machine)
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
    program = assemble(machine, process=os.getpid(), executable=bounds.executable)
    code = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // _INSTRUCTION.size, ctypes.addressof(code))
    if libc.syscall(
        machine.numbers["seccomp"], _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, ctypes.byref(header)
    ):
        raise OSError(ctypes.get_errno(), "the kernel refuses the filter of system calls")


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> None:
    if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _drop_capabilities(libc: ctypes.CDLL, machine: Machine) -> None:
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if libc.syscall(machine.numbers["capset"], header, bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")


def assemble(machine: Machine, *, process: int, executable: bool) -> bytes:
    """The filter as a program of classic BPF.

    Args:
        machine: whose numbers.
        process: the process it is for, which may signal itself and no other: abort(3) does.
        executable: as `Bounds.executable`.
    """
    numbers = machine.numbers
    code = [
        _op(_LOAD, _ARCHITECTURE),
        _op(_EQUAL, machine.audit, 1, 0),
        _op(_RETURN, _KILL_PROCESS),
        _op(_LOAD, _NUMBER),
        _op(_AT_LEAST, _X32, 0, 1),
        _op(_RETURN, _KILL_PROCESS),
    ]
    for name in _PLAIN:
        if name in numbers:
            code += _when(numbers[name], [_op(_RETURN, _ALLOW)])
    protection = [] if executable else [_load(2), *_refuse_bits(_PROT_EXEC)]
    code += _when(numbers["mprotect"], [*protection, _op(_RETURN, _ALLOW)])
    shared_and_anonymous = [
        _op(_AND, _MAP_SHARED | _MAP_ANONYMOUS),
        _op(_EQUAL, _MAP_SHARED | _MAP_ANONYMOUS, 0, 1),
        _op(_RETURN, _REFUSED),
    ]
    code += _when(
        numbers["mmap"],
        [*protection, _load(3), *_refuse_bits(_MAP_UNCOUNTED), *shared_and_anonymous, _op(_RETURN, _ALLOW)],
    )
    # Its flags lie in memory, where no filter can see them. The C library falls back to clone.
    code += _when(numbers["clone3"], [_op(_RETURN, _MISSING)])
    code += _when(
        numbers["clone"], [_load(0), _op(_AND, 0xFFFF_FFFF & ~_CLONE_DETACHED), *_allow_only((_CLONE_THREAD,))]
    )
    code += _when(numbers["tgkill"], [_load(0), *_allow_only((process,))])
    code += _when(numbers["fcntl"], [_load(1), *_allow_only((_F_DUPFD_CLOEXEC,))])
    code += _when(numbers["prctl"], [_load(0), *_allow_only((_PR_SET_NAME,))])
    if "arch_prctl" in numbers:
        code += _when(numbers["arch_prctl"], [_load(0), *_allow_only(_ARCH_XCOMP_PERM)])
    # Reading its own limits is allowed: the new ones, a pointer, must be null in both halves.
    own = [_load(0), _op(_EQUAL, 0, 1, 0), _op(_RETURN, _REFUSED)]
    new_limit = _ARGUMENTS + 8 * 2
    null = [_op(_LOAD, new_limit), _op(_EQUAL, 0, 1, 0), _op(_RETURN, _REFUSED)]
    null += [_op(_LOAD, new_limit + 4), *_allow_only((0,))]
    code += _when(numbers["prlimit64"], [*own, *null])
    code.append(_op(_RETURN, _REFUSED))
    return b"".join(code)


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, if_true, if_false, value)


def _load(argument: int) -> bytes:
    return _op(_LOAD, _ARGUMENTS + 8 * argument)


def _when(number: int, body: list[bytes]) -> list[bytes]:
    """`body`, which ends with a return, where the call is `number`; else go on behind it."""
    if len(body) > _MAX_JUMP:
        raise AssertionError("a rule of the filter is longer than a jump")
    return [_op(_EQUAL, number, 0, len(body)), *body]


def _refuse_bits(bits: int) -> list[bytes]:
    return [_op(_ANY_BIT, bits, 0, 1), _op(_RETURN, _REFUSED)]


def _allow_only(values: Iterable[int]) -> list[bytes]:
    allowed = [part for value in values for part in (_op(_EQUAL, value, 0, 1), _op(_RETURN, _ALLOW))]
    return [*allowed, _op(_RETURN, _REFUSED)]
