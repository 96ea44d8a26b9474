"""The filter's bytes, run by a small interpreter of classic BPF against system calls as the kernel would hand them over."""

from __future__ import annotations

import errno
import struct

import pytest

from studio.play.sandbox_seccomp import DENIED, seccomp_filter

ALLOW, KILL = 0x7FFF0000, 0x80000000
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def judge(rules: bytes, number: int, arch: int, *args: int) -> int:
    data = struct.pack("<iIQ6Q", number, arch, 0, *(list(args) + [0] * 6)[:6])
    program = list(struct.iter_unpack("<HBBI", rules))
    at, accumulator = 0, 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif code == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            at += if_true if holds else if_false


def denied(number: int) -> int:
    return 0x50000 | number


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_denied_call_is_denied_and_plain_ones_pass(machine: str) -> None:
    rules = seccomp_filter(machine)
    assert rules is not None
    column = list(ARCH).index(machine)
    for name, numbers in DENIED.items():
        if numbers[column] is not None:
            assert judge(rules, numbers[column], ARCH[machine]) == denied(errno.EPERM), name
    plain = {"x86_64": [0, 1, 2, 9, 59, 61, 202, 231, 257], "aarch64": [56, 57, 63, 64, 98, 221, 222, 260]}[machine]
    assert {judge(rules, number, ARCH[machine]) for number in plain} == {ALLOW}


@pytest.mark.parametrize(("machine", "clone", "clone3", "socket", "ioctl"), [("x86_64", 56, 435, 41, 16), ("aarch64", 220, 435, 198, 29)])
def test_calls_judged_by_an_argument(machine: str, clone: int, clone3: int, socket: int, ioctl: int) -> None:
    rules = seccomp_filter(machine)
    assert rules is not None
    ask = [ARCH[machine]]
    assert judge(rules, clone, *ask, 0x003D0F00) == ALLOW  # a thread
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert judge(rules, clone, *ask, flag | 17) == denied(errno.EPERM)
    assert judge(rules, clone3, *ask) == denied(errno.ENOSYS)
    assert judge(rules, socket, *ask, 1) == ALLOW
    assert {judge(rules, socket, *ask, family) for family in (0, 2, 10, 16, 17, 38, 40)} == {denied(errno.EACCES)}
    assert judge(rules, ioctl, *ask, 0, 0x5401) == ALLOW
    assert {judge(rules, ioctl, *ask, 0, request) for request in (0x5412, 0x541C)} == {denied(errno.EPERM)}


def test_foreign_calling_conventions_are_killed() -> None:
    rules = seccomp_filter("x86_64")
    assert rules is not None
    assert judge(rules, 1, 0x40000003) == KILL  # 32-bit x86
    assert judge(rules, 0x40000001, ARCH["x86_64"]) == KILL  # x32


def test_unknown_machines_have_no_filter() -> None:
    assert seccomp_filter("riscv64") is None
