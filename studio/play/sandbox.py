"""Runs a program that nobody has read, and tells how it ended.

The program runs in bubblewrap as an unprivileged user: no network, no file of this machine but a read-only Python, one writable folder
in memory that vanishes with it, bounded memory, time, processes, files and output. Where such a sandbox cannot be had, `run_code`
raises SandboxError and nothing is run. For anything the program itself does there is a result, never an exception.

Parts: sandbox_command (what it sees), sandbox_seccomp (what it may ask of the kernel), sandbox_runner (inside), sandbox_watch
(outside), sandbox_result (what comes back). It does not protect from holes in the kernel, and it offers Python's standard library only.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from studio.core.errors import SandboxError
from studio.play.sandbox_command import (
    WORK_FOLDER,
    find_bubblewrap,
    find_identity,
    interpreters,
    process_ceiling,
    sandbox_command,
)
from studio.play.sandbox_result import Reason, SandboxLimits, SandboxResult, SandboxStatus, TestResult
from studio.play.sandbox_seccomp import seccomp_filter
from studio.play.sandbox_watch import Watched, Watcher, WatchLimits, read_lines

__all__ = ["SandboxLimits", "SandboxResult", "SandboxStatus", "TestResult", "run_code", "sandbox_status"]

_RUNNER = Path(__file__).with_name("sandbox_runner.py")
_PROBE = "print('sandbox works')"
_PIPES = ("stdout", "stderr", "facts", "status", "report")
_TEXT_CHARS = 2_000
_MOST_TESTS = 1_000
_PYTHON_HINT = "Install Python 3 system-wide, on Debian and Ubuntu with: apt install python3"
_NAMESPACE_HINT = (
    "Unprivileged user namespaces seem to be off: on Ubuntu 24.04 set kernel.apparmor_restrict_unprivileged_userns to 0, "
    "in a container allow them, and use bubblewrap 0.8 or newer."
)


@dataclass
class _Descriptors:
    """The open descriptors of one run, by name: what the sandbox reads, and both ends of what it writes."""

    inputs: dict[str, int] = field(default_factory=dict)
    read_ends: dict[str, int] = field(default_factory=dict)
    write_ends: dict[str, int] = field(default_factory=dict)

    def close_child_side(self) -> None:
        for group in (self.inputs, self.write_ends):
            for fd in group.values():
                os.close(fd)
            group.clear()

    def close(self) -> None:
        self.close_child_side()
        for fd in self.read_ends.values():
            os.close(fd)
        self.read_ends.clear()


def _sealed(data: bytes) -> int:
    """A descriptor that reads `data` and that nobody can write to."""
    import fcntl  # Linux only, as is everything from here on

    fd = os.memfd_create("sandbox", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd


@contextmanager
def _descriptors(inputs: dict[str, bytes]) -> Iterator[_Descriptors]:
    opened = _Descriptors()
    try:
        for name, data in inputs.items():
            opened.inputs[name] = _sealed(data)
        for name in _PIPES:
            opened.read_ends[name], opened.write_ends[name] = os.pipe()
        yield opened
    finally:
        opened.close()


def _start(interpreter: str, limits: SandboxLimits, opened: _Descriptors) -> subprocess.Popen[bytes]:
    fds = {**opened.inputs, **opened.write_ends}
    command = sandbox_command(find_bubblewrap(), interpreter, limits.disk_bytes, fds)
    runner = ["-c", _RUNNER.read_text(encoding="utf-8"), str(fds["job"]), str(fds["status"]), str(fds["report"])]
    identity = find_identity()
    return subprocess.Popen(
        [*command, *runner],
        stdin=fds["stdin"],
        stdout=fds["stdout"],
        stderr=fds["stderr"],
        pass_fds=[fds[name] for name in ("job", "seccomp", "facts", "status", "report")],
        user=identity.user,
        group=identity.group,
        extra_groups=None if identity.user is None else [],
        cwd="/",
        env={},
        start_new_session=True,
    )


def _run(interpreter: str, job: dict[str, str], limits: SandboxLimits, stdin: str) -> Watched:
    """One run from start to end. Raises SandboxError where bubblewrap cannot be started."""
    rules = seccomp_filter(os.uname().machine)
    if rules is None:
        raise SandboxError(
            f"Generated code is not run: no system call filter is known for {os.uname().machine} machines.",
            "Run it yourself in a place you trust, or use an x86-64 or 64-bit ARM machine.",
        )
    inside = {**asdict(limits), "process_ceiling": process_ceiling(limits.processes)}
    inputs = {
        "job": json.dumps({**job, "limits": inside}).encode(),
        "seccomp": rules,
        "stdin": stdin.encode("utf-8", "replace"),
    }
    outside = WatchLimits(limits.wall_s, limits.memory_bytes, limits.output_bytes, limits.files, limits.processes)
    try:
        with _descriptors(inputs) as opened:
            process = _start(interpreter, limits, opened)
            opened.close_child_side()
            watched = Watcher(process.pid, opened.read_ends, outside, (WORK_FOLDER, "/dev/shm")).watch()
            process.returncode = watched.exit_code  # reaped by the watcher, which wants the usage with it
            return watched
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxError(f"The sandbox could not be started: {error}.", _NAMESPACE_HINT) from error


def _text(value: Any) -> str:
    return value[:_TEXT_CHARS] if isinstance(value, str) else ""


def _test_results(lines: list[dict[str, Any]]) -> tuple[TestResult, ...]:
    """In the order typed; a test that was planned and never reported did not run, and so did not pass."""
    planned = next((line["planned"] for line in lines if isinstance(line.get("planned"), list)), [])
    reported = {line["test"]: line for line in lines if isinstance(line.get("test"), int)}
    results = []
    for index, name in enumerate(planned[:_MOST_TESTS]):
        line = reported.get(index)
        if line is not None:
            results.append(TestResult(_text(line.get("name")), line.get("failure") == "", _text(line.get("failure"))))
        elif _text(name):
            results.append(TestResult(_text(name), False, "It did not run: the program ended before it."))
    return tuple(results)


def _ending(watched: Watched, status: dict[str, Any], exception: str, limits: SandboxLimits) -> Reason:
    number = status.get("signal")
    cpu_s = status.get("cpu_s", 0.0)
    if watched.stopped:
        return watched.stopped
    if number == signal.SIGXCPU or (number == signal.SIGKILL and cpu_s >= limits.cpu_s):
        return "timed out"
    if exception.startswith("MemoryError"):
        return "out of memory"
    if exception:
        return "exception"
    if "exit_code" not in status:
        return "signal"
    return "exit" if status["exit_code"] else "ok"


def _signal_name(number: int | None) -> str | None:
    if number is None:
        return None
    known = {int(one): one.name for one in signal.Signals}
    return known.get(number, f"signal {number}")


def _result(watched: Watched, limits: SandboxLimits) -> SandboxResult:
    status = {key: value for line in read_lines(watched.streams["status"]) for key, value in line.items()}
    report = read_lines(watched.streams["report"])
    exception = next((_text(line["exception"]) for line in report if "exception" in line), "")
    number = status.get("signal", None if "exit_code" in status else int(signal.SIGKILL))
    return SandboxResult(
        reason=_ending(watched, status, exception, limits),
        stdout=watched.streams["stdout"].decode("utf-8", "replace"),
        stderr=watched.streams["stderr"].decode("utf-8", "replace"),
        exception=exception,
        exit_code=status.get("exit_code"),
        signal=_signal_name(number),
        wall_s=watched.wall_s,
        cpu_s=status.get("cpu_s", watched.cpu_s),
        peak_memory_bytes=max(watched.peak_memory_bytes, status.get("peak_memory_bytes", 0)),
        tests=_test_results(report),
        pid_namespace=watched.facts.get("pid-namespace", 0),
    )


def _never_started(watched: Watched) -> str:
    """Why the program was not reached, in bubblewrap's or the interpreter's words; "" when it was."""
    if watched.stopped or read_lines(watched.streams["status"]):
        return ""
    words = watched.streams["stderr"].decode("utf-8", "replace").strip()
    return words.splitlines()[-1] if words else f"it ended with code {watched.exit_code} and said nothing"


def _probe(interpreter: str) -> str:
    """"" when a program runs with this interpreter, else why not."""
    watched = _run(interpreter, {"source": _PROBE, "tests": ""}, SandboxLimits(), "")
    if watched.streams["stdout"] == b"sandbox works\n":
        return ""
    return _never_started(watched) or watched.streams["stderr"].decode("utf-8", "replace").strip() or watched.stopped


@functools.cache
def _find_interpreter() -> str:
    """The first interpreter that runs a tiny program in the sandbox. Raises SandboxError; only success is remembered."""
    find_bubblewrap()
    failures = []
    for interpreter in interpreters():
        failure = _probe(interpreter)
        if not failure:
            return interpreter
        failures.append(f"{interpreter}: {failure}")
    if not failures:
        raise SandboxError("Generated code is not run: no Python interpreter was found for it.", _PYTHON_HINT)
    hint = _NAMESPACE_HINT if any("bwrap" in failure for failure in failures) else _PYTHON_HINT
    raise SandboxError("Generated code is not run: no sandbox can be made here. " + "; ".join(failures), hint)


def sandbox_status() -> SandboxStatus:
    """Whether programs can be run here. The first call runs a tiny one (about 0.1 s), later calls remember that it ran."""
    try:
        return SandboxStatus(True, "", "", _find_interpreter())
    except SandboxError as error:
        return SandboxStatus(False, error.message, error.hint)


def run_code(source: str, *, tests: str = "", limits: SandboxLimits = SandboxLimits(), stdin: str = "") -> SandboxResult:  # noqa: B008
    """Run `source` as a Python program, then `tests` in its names; blocks until all of it has ended.

    `tests` are asserts, bare calls, `def test_...` functions or doctest lines. Times are in seconds, sizes in bytes. Raises SandboxError
    where no sandbox can be had; whatever the program does is in the result.
    """
    watched = _run(_find_interpreter(), {"source": source, "tests": tests}, limits, stdin)
    failure = _never_started(watched)
    if failure:
        raise SandboxError(f"The sandbox could not be started: {failure}", _NAMESPACE_HINT)
    return _result(watched, limits)
