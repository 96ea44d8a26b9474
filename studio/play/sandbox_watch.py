"""Watches one sandbox from outside: reads its pipes with a bound, samples what it uses, and kills all of it at a limit.

Killing process 1 of the sandbox makes the kernel kill everything in its process namespace, daemons included, before that process can
be reaped: when `watch` returns, nothing of the sandbox is alive.

Memory is the sum over the sandbox's processes, sampled every 20 ms, so it can pass the limit between two samples by what the
processes allocate in that time; the limit on address space bounds each process exactly. Kernel memory (socket and pipe buffers, locks)
is bounded by the number of descriptors and processes only.

Processes and threads are bounded twice. RLIMIT_NPROC makes the kernel refuse the one too many, but it does not bind root, before Linux
5.14 it counts what the same user runs elsewhere, and a container's kernel may not count at all; so they are also counted here, and a
sandbox that has more than it may is killed. Where only this count holds, a bomb overshoots it by what it forks between two looks.
"""

from __future__ import annotations

import functools
import json
import os
import selectors
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

TICK_S = 0.02
_CHUNK_BYTES = 65_536
_REPORT_BYTES = 1_048_576


@dataclass(frozen=True)
class WatchLimits:
    """Where `watch` stops a sandbox. Times in seconds of wall clock, sizes in bytes.

    `files` counts inodes of the work folder, `processes` all processes but the sandbox's first, and their threads.
    """

    wall_s: float
    memory_bytes: int
    output_bytes: int
    files: int
    processes: int


@dataclass
class Watched:
    """What was seen of one sandbox. `stopped` names the limit it was killed at, "" when it ended by itself."""

    streams: dict[str, bytearray]
    stopped: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    exit_code: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def read_lines(data: bytes | bytearray) -> list[dict[str, Any]]:
    """The JSON objects of `data`, one a line or several in a row; anything else in it is left out."""
    found = []
    for line in bytes(data).splitlines():
        with suppress(ValueError, RecursionError):
            value = json.loads(line)
            if isinstance(value, dict):
                found.append(value)
    return found


def _scan_for_children(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, IndexError), open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                if int(file.read().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(name))
    return found


@functools.cache
def _kernel_lists_children() -> bool:
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def children_of(pid: int) -> list[int]:
    """Direct children, from all of the process's threads; empty when it is gone."""
    if not _kernel_lists_children():
        return _scan_for_children(pid)
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += [int(word) for word in file.read().split()]
    return found


def processes_below(pid: int, most: int | None = None) -> list[int]:
    """Every descendant of `pid`, nearest first. With `most` it stops as soon as it knows of more: a bomb outruns a full count."""
    found = children_of(pid)
    for child in found:
        if most is not None and len(found) > most:
            break
        found += [grandchild for grandchild in children_of(child) if grandchild not in found]
    return found


def threads_of(pids: list[int]) -> int:
    """How many threads these processes have together, each one's first included; a process that is gone has none."""
    count = 0
    for pid in pids:
        with suppress(OSError):
            count += len(os.listdir(f"/proc/{pid}/task"))
    return count


def _kilobytes(path: str, *names: str) -> list[int]:
    values = dict.fromkeys(names, 0)
    with suppress(OSError, ValueError), open(path, encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in values:
                values[name] = int(rest.split()[0])
    return list(values.values())


def _share(pid: int) -> int:
    """A process's part of the memory in KiB; all it can reach where parts are not told, and nothing once it has ended."""
    return sum(_kilobytes(f"/proc/{pid}/smaps_rollup", "Pss", "SwapPss")) or sum(_kilobytes(f"/proc/{pid}/status", "VmRSS", "VmSwap"))


def memory_of(pids: list[int], limit_bytes: int) -> tuple[int, int]:
    """(sum over the processes, largest peak of one) in bytes. Pages shared after a fork are counted once when the sum matters."""
    sizes = [_kilobytes(f"/proc/{pid}/status", "VmRSS", "VmSwap", "VmHWM") for pid in pids]
    total = sum(resident + swapped for resident, swapped, _ in sizes) * 1024
    if total > limit_bytes:
        total = sum(_share(pid) for pid in pids) * 1024
    return total, max((peak for _, _, peak in sizes), default=0) * 1024


def files_in(first_pid: int, folder: str) -> int:
    """Inodes in use on the sandbox's file system at `folder`; 0 when it cannot be looked at."""
    with suppress(OSError):
        usage = os.statvfs(f"/proc/{first_pid}/root{folder}")
        return usage.f_files - usage.f_ffree
    return 0


class Watcher:
    """One sandbox, from the start of bubblewrap (`pid`) to the end. `pipes` are read ends by name."""

    def __init__(self, pid: int, pipes: dict[str, int], limits: WatchLimits, folders: tuple[str, ...]) -> None:
        self.pid, self.pipes, self.limits, self.folders = pid, pipes, limits, folders
        self.started_s = time.monotonic()
        self.seen = Watched({name: bytearray() for name in pipes})
        self.selector = selectors.DefaultSelector()
        for name, fd in pipes.items():
            os.set_blocking(fd, False)
            self.selector.register(fd, selectors.EVENT_READ, name)

    def first_process(self) -> int | None:
        """Process 1 of the sandbox as seen from here, once bubblewrap has made it."""
        children = children_of(self.pid)
        return children[0] if children else None

    def kill(self, reason: str) -> None:
        """Ends everything in the sandbox; the first reason stays."""
        first = self.first_process()
        if first is not None and not self.seen.stopped:
            self.sample(first)
        self.seen.stopped = self.seen.stopped or reason
        with suppress(ProcessLookupError, PermissionError):
            os.kill(first or self.pid, signal.SIGKILL)

    def _room(self, name: str) -> int:
        bound = self.limits.output_bytes if name in ("stdout", "stderr") else _REPORT_BYTES
        return bound - len(self.seen.streams[name])

    def read(self, fd: int, name: str) -> None:
        try:
            data = os.read(fd, _CHUNK_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.selector.unregister(fd)
            return
        room = self._room(name)
        self.seen.streams[name] += data[: max(room, 0)]
        if len(data) > room:
            self.kill("output limit")

    def sample(self, first: int) -> tuple[int, int]:
        """Threads and memory (bytes) of the sandbox now; memory is remembered as peak."""
        below = processes_below(first, self.limits.processes)
        # Whoever is alive here was alive when the list was done, so those who come and go are not counted together.
        threads = threads_of(below)
        total, largest = memory_of(below, self.limits.memory_bytes)
        self.seen.peak_memory_bytes = max(self.seen.peak_memory_bytes, total, largest)
        return threads, total

    def check(self) -> None:
        """Samples, and kills at the first limit passed."""
        first = self.first_process()
        if first is not None and self.seen.streams["status"]:  # before the runner speaks, process 1 still stands in our own file system
            threads, memory_bytes = self.sample(first)
            if threads > self.limits.processes:
                self.kill("too many processes")
            if memory_bytes > self.limits.memory_bytes:
                self.kill("out of memory")
            if any(files_in(first, folder) > self.limits.files for folder in self.folders):
                self.kill("too many files")
        if time.monotonic() - self.started_s > self.limits.wall_s:
            self.kill("timed out")

    def poll(self) -> bool:
        """True once bubblewrap has ended and is reaped, which it does last."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            return False
        self.seen.exit_code = os.waitstatus_to_exitcode(status)
        self.seen.cpu_s = usage.ru_utime + usage.ru_stime
        return True

    def pump(self, timeout_s: float) -> bool:
        """Reads what is there; False when nothing was."""
        events = self.selector.select(timeout_s) if self.selector.get_map() else []
        for key, _ in events:
            self.read(key.fd, key.data)
        return bool(events)

    def watch(self) -> Watched:
        """Until the sandbox has ended. Whatever interrupts the watching ends the sandbox too."""
        try:
            self._until_ended()
        except BaseException:
            self.kill("interrupted")
            os.waitpid(self.pid, 0)
            raise
        finally:
            self.selector.close()
        self.seen.facts = {key: value for line in read_lines(self.seen.streams["facts"]) for key, value in line.items()}
        return self.seen

    def _until_ended(self) -> None:
        checked_s = 0.0
        while not self.poll():
            if not self.pump(TICK_S) and not self.selector.get_map():
                time.sleep(TICK_S)
            if time.monotonic() - checked_s >= TICK_S:
                self.check()
                checked_s = time.monotonic()
        self.seen.wall_s = time.monotonic() - self.started_s
        while self.pump(0):  # what still lies in the pipes; nobody can write to them any more
            pass
