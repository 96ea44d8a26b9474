"""Attacks on memory and disk: every kind of memory a program can get hold of has a bound, and the test says which one held."""

from __future__ import annotations

import pytest

MIB = 2**20

# name, program, how it must end: the address space (RLIMIT_AS) is what holds it, so Python itself says MemoryError or ENOMEM
ADDRESS_SPACE = {
    "one big block": "x = bytearray(8 << 30)",
    "a list without end": "x = []\nwhile True: x.append(bytes(1 << 20))",
    "a string doubled": "s = 'a'\nwhile True: s += s",
    "zip bomb": "import zlib\nc = zlib.compressobj(wbits=-15)\npart = c.compress(bytes(1 << 20)) + c.flush(zlib.Z_FULL_FLUSH)\n"
    "bomb = part * 1024\nassert len(bomb) < 2_000_000\nzlib.decompress(bomb, -15)",
    "dictionary of strings": "d = {}\ni = 0\nwhile True:\n    i += 1\n    d[i] = str(i) * 50",
    "anonymous mapping": "import mmap\nm = []\ntry:\n    while True: m.append(mmap.mmap(-1, 64 << 20))\n"
    "except OSError as e:\n    raise MemoryError(e)",
    "after raising its own limit": "import resource\n_, hard = resource.getrlimit(resource.RLIMIT_AS)\n"
    "resource.setrlimit(resource.RLIMIT_AS, (hard, hard))\nx = bytearray(hard)",
}


@pytest.mark.parametrize("name", ADDRESS_SPACE)
def test_address_space_is_bounded(attack, name) -> None:
    result = attack(ADDRESS_SPACE[name])
    assert result.reason == "out of memory", result
    assert result.peak_memory_bytes <= (256 + 32) * MIB


def test_limits_cannot_be_raised(attack) -> None:
    result = attack(
        "import resource\n"
        "for name in ('AS', 'CPU', 'FSIZE', 'NOFILE', 'NPROC', 'CORE', 'MEMLOCK', 'MSGQUEUE'):\n"
        "    kind = getattr(resource, 'RLIMIT_' + name)\n"
        "    hard = resource.getrlimit(kind)[1]\n"
        "    try:\n        resource.setrlimit(kind, (hard + 1, hard + 1)); print('RAISED', name)\n"
        "    except ValueError: print('held', name)\n"
    )
    assert result.stdout.count("held") == 8 and "RAISED" not in result.stdout


def test_memory_is_summed_over_processes(attack) -> None:
    """Each child stays under the limit of one process; the watcher outside adds them up."""
    result = attack(
        "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n        x = os.urandom(60 << 20); time.sleep(60)\ntime.sleep(60)"
    )
    assert (result.reason, result.signal) == ("out of memory", "SIGKILL")


def test_a_shared_copy_after_a_fork_is_counted_once(attack) -> None:
    result = attack(
        "import os, time\nx = os.urandom(60 << 20)\nfor _ in range(8):\n"
        "    if os.fork() == 0:\n        time.sleep(0.5); os._exit(0)\ntime.sleep(0.5)"
    )
    assert result.reason == "ok"


def test_memory_errors_caught_for_ever_end_at_the_clock(attack) -> None:
    result = attack("x = []\nwhile True:\n    try: x.append(bytes(1 << 20))\n    except MemoryError: pass", wall_s=1.0)
    assert result.reason == "timed out"


NO_PROCESS_OWNS = {
    "memfd": "import os\nos.memfd_create('x')",
    "System V shared memory": "SYSCALL(29 if X86 else 194, 0, 1 << 20, 0o1600)",
    "System V messages": "SYSCALL(68 if X86 else 186, 0, 0o1600)",
    "POSIX message queue": "SYSCALL(240 if X86 else 180, b'x', 0o102, 0o600, None)",
    "keyring": "SYSCALL(248 if X86 else 217, b'user', b'x', b'y', 1, -3)",
}
SYSCALL = """import ctypes, os
X86 = os.uname().machine == 'x86_64'
def SYSCALL(*args):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(*args) == -1: raise OSError(ctypes.get_errno(), 'refused')
"""


@pytest.mark.parametrize("name", NO_PROCESS_OWNS)
def test_memory_that_no_process_owns_is_refused(attack, name) -> None:
    """The system call filter holds these: no limit of a process would see them."""
    result = attack(SYSCALL + NO_PROCESS_OWNS[name])
    assert result.exception.startswith("PermissionError: [Errno 1]"), result


def test_locked_memory_is_refused(attack) -> None:
    result = attack("import ctypes, mmap\nlibc = ctypes.CDLL(None, use_errno=True)\nprint(libc.mlockall(3), ctypes.get_errno())")
    assert result.stdout.split()[0] == "-1"
    assert result.stdout.split()[1] in ("1", "12")  # EPERM or ENOMEM


DISK = {
    "many files": (
        "data = bytes(1 << 20)\ni = 0\nwhile True:\n    with open(f'f{i}', 'wb') as f: f.write(data)\n    i += 1",
        "OSError: [Errno 28] No space left on device",
    ),
    "one file": (
        "f = open('f', 'wb', buffering=0)\nwhile True:\n    if f.write(bytes(1 << 20)) == 0: break",
        "OSError: [Errno 2",  # 27 file too large, or 28 no space: both limits are the same number of bytes
    ),
    "sparse file": ("open('f', 'wb').truncate(1 << 40)", "OSError: [Errno 27] File too large"),
    "shared memory folder": (
        "f = open('/dev/shm/f', 'wb', buffering=0)\nwhile True: f.write(bytes(1 << 16))",
        "OSError: [Errno 28] No space left on device",
    ),
    "temporary folder": (
        "import tempfile\nf = tempfile.TemporaryFile(buffering=0)\nwhile True: f.write(bytes(1 << 20))",
        "OSError: [Errno 2",
    ),
}


@pytest.mark.parametrize("name", DISK)
def test_disk_is_bounded(attack, name) -> None:
    source, exception = DISK[name]
    result = attack(source)
    assert (result.reason, result.exception[: len(exception)]) == ("exception", exception)


@pytest.mark.parametrize("folder", ["/work", "/dev/shm", "/tmp"])
def test_empty_files_are_counted(attack, folder) -> None:
    """An empty file takes no room on the disk but kernel memory; the watcher counts them."""
    result = attack(f"i = 0\nwhile True:\n    open(f'{folder}/f{{i}}', 'w').close(); i += 1")
    assert (result.reason, result.signal) == ("too many files", "SIGKILL")


RECURSION = {
    "plain": ("def f(): f()\nf()", {"exception"}),
    "limit raised": ("import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f() + 1\nf()", {"exception", "signal", "out of memory"}),
    "nested JSON": ("import json\njson.loads('[' * 10**6)", {"exception"}),
    "nested source": ("eval('-' * 10**6 + '1')", {"exception", "signal", "out of memory"}),
    "in C": ("import functools\nx = functools.partial(int)\nfor _ in range(10**6): x = [x]\nrepr(x)", {"exception", "signal"}),
}  # fmt: skip


@pytest.mark.parametrize("name", RECURSION)
def test_recursion_ends_the_program_only(attack, name) -> None:
    source, reasons = RECURSION[name]
    assert attack(source).reason in reasons
