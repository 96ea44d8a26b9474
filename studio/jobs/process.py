"""Which process is which: identity by pid and start time, liveness, and ending a whole process group.

A pid alone names nothing: it is reused, and a zombie still has it. The start time that the operating system reports moves when the
clock is set, so a process that works on a run is also known by its command line, which ends in the run's folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

START_TOLERANCE_S = 1.0
"""The clock is disciplined in small steps while a process lives, and its start time moves with it."""


@dataclass(frozen=True)
class ProcessIdentity:
    """A process that lives or has lived. `started` is psutil's create_time: seconds since the epoch."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The identity of a process that lives now."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except (psutil.Error, ValueError):
            return None

    @classmethod
    def from_json(cls, data: dict[str, Any] | None) -> ProcessIdentity | None:
        """What process.json says; None when it says nothing sensible."""
        try:
            return cls(int(data["pid"]), float(data["started"])) if data else None
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    def to_json(self) -> dict[str, Any]:
        return {"pid": self.pid, "started": self.started}

    def is_alive(self, working_on: str = "") -> bool:
        """It still runs: this pid, not a zombie, and started then or, where the clock was set, with `working_on` in its command line."""
        try:
            process = psutil.Process(self.pid)
            if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                return False
            if abs(process.create_time() - self.started) <= START_TOLERANCE_S:
                return True
            return _works_on(process.cmdline(), working_on)
        except (psutil.Error, ValueError):
            return False


def _works_on(command: list[str], name: str) -> bool:
    # A folder's full path: `python -m studio show RUN` names the run too, and works on nothing.
    return bool(name) and "-m" in command and any(Path(argument).name == name and Path(argument).is_absolute() for argument in command)


def find_process(working_on: str) -> ProcessIdentity | None:
    """A live `python -m ... FOLDER` whose folder has this name. Looks at every process: for rare moments, not for polling."""
    return next(_find(lambda command: _works_on(command, working_on)), None)


def find_processes(module: str, argument: str) -> list[ProcessIdentity]:
    """Every live `python -m MODULE ... ARGUMENT ...`. Looks at every process."""
    return list(_find(lambda command: "-m" in command and module in command and argument in command))


def _find(fits: Callable[[list[str]], bool]) -> Iterator[ProcessIdentity]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if fits(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                yield ProcessIdentity(process.pid, process.create_time())


def end_group(identity: ProcessIdentity, *, grace_s: float = 5.0, working_on: str = "") -> None:
    """Terminate the process and its group, kill what is left after `grace_s`. Nothing happens to a stranger with the same pid."""
    if not identity.is_alive(working_on):
        return
    if grace_s > 0:
        _signal_group(identity.pid, signal.SIGTERM)
        if wait_for_end(identity, grace_s, working_on):
            return
    _signal_group(identity.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    wait_for_end(identity, 10.0, working_on)


def wait_for_end(identity: ProcessIdentity, timeout_s: float, working_on: str = "") -> bool:
    """True as soon as the process has ended, False when it has not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while identity.is_alive(working_on):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _signal_group(pid: int, number: int) -> None:
    """To the group that `pid` leads; to `pid` alone when it leads none, so that a group of somebody else is never hit."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg") and os.getpgid(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
