"""The system calls a sandboxed program may not make, as a filter the kernel runs (seccomp, classic BPF).

Namespaces and limits bound files, processes, network and address space. They leave open some memory that belongs to no process
(System V shared memory, memfd), kernel interfaces with a long list of holes (bpf, io_uring, perf, userfaultfd, keyrings, nested
namespaces) and socket families that know no network namespace (vsock). This filter closes those; all else stays allowed, so that
ordinary Python runs.

It knows x86-64 and 64-bit ARM; on other machines there is no filter and the sandbox is refused. It is a list of what is denied, not
of what is allowed: a system call younger than this file passes.

Source: Linux include/uapi/linux/{filter,seccomp,audit}.h and the kernel's two system call tables.
"""

from __future__ import annotations

import errno
import struct

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN = {"x86_64": 0, "aarch64": 1}
_X32_BIT = 0x4000_0000

# struct seccomp_data { int nr; u32 arch; u64 instruction_pointer; u64 args[6]; }, little endian on both machines
_NUMBER_AT, _ARCH_AT, _ARG0_AT, _ARG1_AT = 0, 4, 16, 24

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _DENY, _KILL_PROCESS = 0x7FFF_0000, 0x0005_0000, 0x8000_0000

_NEW_NAMESPACES = 0x7E02_0000  # CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
_AF_UNIX = 1
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX push characters into a terminal

# name: (x86-64, 64-bit ARM); None where that machine has no such call
DENIED: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    # mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97), "setns": (308, 268),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "fanotify_init": (300, 262),
    # memory that no process owns, or that other limits do not see
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195),
    "shmdt": (67, 197), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "semget": (64, 190),
    "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192), "mq_open": (240, 180), "vmsplice": (278, 75),
    "remap_file_pages": (216, 234), "mbind": (237, 235), "set_mempolicy": (238, 237), "migrate_pages": (256, 238),
    "move_pages": (279, 239), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # wide kernel interfaces
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "personality": (135, 92), "modify_ldt": (154, None),
    # the machine itself
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "syslog": (103, 116),
    "acct": (163, 89), "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162), "iopl": (172, None), "ioperm": (173, None), "vhangup": (153, 58),
}  # fmt: skip

_FILTERED: dict[str, tuple[int, int]] = {
    "clone": (56, 220), "clone3": (435, 435), "socket": (41, 198), "socketpair": (53, 199), "ioctl": (16, 29),
}  # fmt: skip


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _errno(number: int) -> bytes:
    return _op(_RETURN, _DENY | number)


def _when(number: int, body: list[bytes]) -> list[bytes]:
    """`body` runs for this system call only; it may end in a return or fall through to what follows."""
    return [_op(_JUMP_EQUAL, number, 0, len(body)), *body]


def _argument_rules(column: int) -> list[bytes]:
    """Calls that are fine or not depending on an argument. Each reloads the call's number when it falls through."""
    reload = _op(_LOAD, _NUMBER_AT)
    number = {name: numbers[column] for name, numbers in _FILTERED.items()}
    rules = _when(number["clone"], [_op(_LOAD, _ARG0_AT), _op(_JUMP_ANY_BIT, _NEW_NAMESPACES, 0, 1), _errno(errno.EPERM), reload])
    # clone3 hides its flags behind a pointer; told that it does not exist, the C library falls back to clone
    rules += _when(number["clone3"], [_errno(errno.ENOSYS)])
    for name in ("socket", "socketpair"):
        rules += _when(number[name], [_op(_LOAD, _ARG0_AT), _op(_JUMP_EQUAL, _AF_UNIX, 1, 0), _errno(errno.EACCES), reload])
    for request in _TERMINAL_INPUT:
        rules += _when(number["ioctl"], [_op(_LOAD, _ARG1_AT), _op(_JUMP_EQUAL, request, 0, 1), _errno(errno.EPERM), reload])
    return rules


def seccomp_filter(machine: str) -> bytes | None:
    """The filter for `os.uname().machine` as an array of 8-byte struct sock_filter, or None where the machine is not known."""
    if machine not in _AUDIT_ARCH:
        return None
    column = _COLUMN[machine]
    program = [_op(_LOAD, _ARCH_AT), _op(_JUMP_EQUAL, _AUDIT_ARCH[machine], 1, 0), _op(_RETURN, _KILL_PROCESS), _op(_LOAD, _NUMBER_AT)]
    if machine == "x86_64":
        program += [_op(_JUMP_GREATER_EQUAL, _X32_BIT, 0, 1), _op(_RETURN, _KILL_PROCESS)]
    program += _argument_rules(column)
    for numbers in DENIED.values():
        number = numbers[column]
        if number is not None:
            program += _when(number, [_errno(errno.EPERM)])
    program.append(_op(_RETURN, _ALLOW))
    return b"".join(program)
