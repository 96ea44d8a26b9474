"""Attacks on the kernel's doors out: mounts, namespaces, debugging, devices, privileges. The errno says who refused."""

from __future__ import annotations

import os
import pwd
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from studio.play.sandbox_watch import processes_below

SYSCALL = """import ctypes, os
X86 = os.uname().machine == 'x86_64'
def SYSCALL(x86, arm, *args):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(x86 if X86 else arm, *args) == -1: raise OSError(ctypes.get_errno(), 'refused')
"""

FILTERED = {
    "mount": "SYSCALL(165, 40, b'none', b'/work', b'tmpfs', 0, None)",
    "remount the root writable": "SYSCALL(165, 40, None, b'/', None, 32 | 4096, None)",
    "unmount": "SYSCALL(166, 39, b'/proc', 2)",
    "new mount interface": "SYSCALL(430, 430, b'tmpfs', 0)",
    "open a mount tree": "SYSCALL(428, 428, -100, b'/', 1)",
    "chroot": "import os; os.chroot('/work')",
    "pivot_root": "SYSCALL(155, 41, b'/work', b'/work')",
    "new user namespace": "SYSCALL(272, 97, 0x10000000)",
    "new mount namespace": "SYSCALL(272, 97, 0x20000)",
    "fork into a user namespace": "SYSCALL(56, 220, 0x10000000 | 17, 0, 0, 0, 0)",
    "join a namespace": "import os\nSYSCALL(308, 268, os.open('/proc/self/ns/net', 0), 0)",
    "trace process 1": "SYSCALL(101, 117, 16, 1, 0, 0)",
    "let itself be traced": "SYSCALL(101, 117, 0, 0, 0, 0)",
    "read process 1's memory": "SYSCALL(310, 270, 1, None, 0, None, 0, 0)",
    "write process 1's memory": "SYSCALL(311, 271, 1, None, 0, None, 0, 0)",
    "steal a descriptor": "SYSCALL(438, 438, os.pidfd_open(1), 0, 0)",
    "bpf": "SYSCALL(321, 280, 0, None, 0)",
    "perf": "SYSCALL(298, 241, None, 0, -1, -1, 0)",
    "io_uring": "SYSCALL(425, 425, 8, None)",
    "userfaultfd": "SYSCALL(323, 282, 0)",
    "keyctl": "SYSCALL(250, 219, 0, -3, 1)",
    "load a module": "SYSCALL(175, 105, None, 0, b'')",
    "kexec": "SYSCALL(246, 104, 0, 0, None, 0)",
    "reboot": "SYSCALL(169, 142, 0xfee1dead, 672274793, 0, None)",
    "set the clock": "import time; time.clock_settime(time.CLOCK_REALTIME, 0)",
    "set the host name": "import socket; socket.sethostname('owned')",
    "kernel log": "SYSCALL(103, 116, 3, None, 0)",
    "swap on": "SYSCALL(167, 224, b'/work/x', 0)",
    "open by handle": "SYSCALL(304, 265, -100, None, 0)",
    "type into the terminal": "import fcntl; fcntl.ioctl(0, 0x5412, b'x')",
}


def test_the_filter_refuses(attack) -> None:
    """All in one program, each with its errno: 1 is the filter's, and none may get through."""
    steps = "".join(
        f"try:\n    {'; '.join(call.splitlines())}\n    print('THROUGH', {name!r})\nexcept OSError as e: print(e.errno, {name!r})\n"
        for name, call in FILTERED.items()
    )
    result = attack(SYSCALL + steps)
    assert result.stdout.splitlines() == [f"1 {name}" for name in FILTERED], result


def test_the_hidden_flags_of_clone3_are_not_there(attack) -> None:
    result = attack(SYSCALL + "SYSCALL(435, 435, None, 0)")
    assert result.exception.startswith("OSError: [Errno 38]")


def test_a_foreign_calling_convention_kills(attack) -> None:
    """On x86-64 the x32 numbers would pass by a filter that only knows the others. Elsewhere the number does not exist."""
    result = attack(SYSCALL + "SYSCALL(0x40000000 + 39, 0x40000000 + 39)")
    if os.uname().machine == "x86_64":
        assert (result.reason, result.signal) == ("signal", "SIGSYS")
    else:
        assert result.exception.startswith("OSError: [Errno 38]")


def test_no_privilege_is_left_and_none_can_be_gained(attack) -> None:
    result = attack("print(open('/proc/self/status').read())")
    fields = dict(line.split(":\t", 1) for line in result.stdout.splitlines() if ":\t" in line)
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"  # so that a set-user-id program gives nothing
    assert fields["Seccomp"] == "2"
    assert set(fields["Uid"].split()) == {"1000"}


def test_one_user_is_mapped_and_it_is_not_root(attack) -> None:
    result = attack("print(open('/proc/self/uid_map').read() + open('/proc/self/gid_map').read())")
    assert [line.split()[0::2] for line in result.stdout.strip().splitlines()] == [["1000", "1"], ["1000", "1"]]


def test_outside_it_is_no_root_either(attack) -> None:
    """Nobody, where the studio is root; else the studio's own user."""
    with ThreadPoolExecutor() as pool:
        others = set(processes_below(os.getpid()))  # a browser of other tests also gives up new privileges, as root
        running = pool.submit(attack, "import time; time.sleep(1)")
        users: set[str] = set()
        while not running.done():
            for pid in set(processes_below(os.getpid())) - others:
                try:
                    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                except OSError:
                    continue
                if any(line == "NoNewPrivs:\t1" for line in lines) and "chrom" not in lines[0]:
                    users |= {line for line in lines if line.startswith("Uid:")}
        running.result()
    assert users
    expected = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
    assert {uid for line in users for uid in line.split()[1:]} == {str(expected)}


NOT_PERMITTED = ["os.setgroups([0])", "os.nice(-20)", "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))"]


@pytest.mark.parametrize("call", NOT_PERMITTED)
def test_no_privileged_call_is_permitted(attack, call) -> None:
    assert attack(f"import os\n{call}").exception.startswith("PermissionError: [Errno 1]")


@pytest.mark.parametrize("call", ["os.setuid(0)", "os.setgid(0)", "os.setresuid(0, 0, 0)"])
def test_there_is_no_root_to_become(attack, call) -> None:
    """User 0 is not mapped into the sandbox's namespace, so the number is invalid there."""
    assert attack(f"import os\n{call}").exception.startswith("OSError: [Errno 22]")


def test_a_set_user_id_copy_gives_nothing(attack) -> None:
    result = attack(
        "import os, shutil, subprocess\nshutil.copy('/bin/sh', 'sh'); os.chmod('sh', 0o4755)\n"
        "print(subprocess.run(['./sh', '-p', '-c', 'id -u'], capture_output=True, text=True).stdout)"
    )
    assert result.stdout.split() == ["1000"]


def test_devices_cannot_be_made(attack) -> None:
    result = attack("import os, stat\nos.mknod('disk', 0o600 | stat.S_IFBLK, os.makedev(254, 0))")
    assert result.exception.startswith("PermissionError: [Errno 1]")
