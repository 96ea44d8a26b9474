"""What a sandboxed program may use, and how it ended: plain values that any part of the studio can show or store.

It does not run anything; see sandbox.py.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from studio.core.errors import SandboxError

Reason = Literal["ok", "exception", "exit", "signal", "timed out", "out of memory", "output limit", "too many files", "too many processes"]


@dataclass(frozen=True)
class SandboxLimits:
    """What a program may use. The address space of each process and the memory of all of them together are both `memory_bytes`.

    `processes` counts the program, what it starts, and the threads of all of them.
    """

    wall_s: float = 10.0
    cpu_s: float = 10.0
    memory_bytes: int = 256 * 1024 * 1024
    disk_bytes: int = 16 * 1024 * 1024
    output_bytes: int = 64 * 1024
    processes: int = 32
    open_files: int = 64
    files: int = 2_000

    def __post_init__(self) -> None:
        wrong = [f"{field.name} is {getattr(self, field.name)}" for field in fields(self) if not getattr(self, field.name) > 0]
        if wrong:
            raise SandboxError(f"Every limit of the sandbox must be above zero: {', '.join(wrong)}.", "Give positive limits.")


@dataclass(frozen=True)
class TestResult:
    """One check of the person's tests. `message` says why it failed, or why it never ran."""

    __test__ = False  # a name pytest would collect

    name: str
    passed: bool
    message: str = ""


@dataclass(frozen=True)
class SandboxResult:
    """How a program ended. `exit_code` is None where a signal ended it; `pid_namespace` is the kernel's number of its namespace."""

    reason: Reason
    stdout: str
    stderr: str
    exception: str
    exit_code: int | None
    signal: str | None
    wall_s: float
    cpu_s: float
    peak_memory_bytes: int
    tests: tuple[TestResult, ...] = ()
    pid_namespace: int = 0

    @property
    def ok(self) -> bool:
        """Ended by itself without a failure, and every test passed."""
        return self.reason == "ok" and all(test.passed for test in self.tests)

    @property
    def summary(self) -> str:
        """One sentence for a person."""
        how = {
            "ok": "The program ended normally",
            "exception": f"The program raised {self.exception.splitlines()[0] if self.exception else 'an exception'}",
            "exit": f"The program ended with code {self.exit_code}",
            "signal": f"The program was ended by {self.signal}",
            "timed out": "The program took too long and was stopped",
            "out of memory": "The program needed more memory than it may use",
            "output limit": "The program printed more than is kept and was stopped",
            "too many files": "The program made more files than it may and was stopped",
            "too many processes": "The program started more processes and threads than it may and was stopped",
        }[self.reason]
        passed = sum(test.passed for test in self.tests)
        tests = f"; {passed} of {len(self.tests)} tests passed" if self.tests else ""
        return f"{how}{tests} ({self.wall_s:.2f} s, {self.peak_memory_bytes / 2**20:.0f} MiB)."


@dataclass(frozen=True)
class SandboxStatus:
    """Whether programs can be run here; `reason` says why not, `hint` what to do."""

    available: bool
    reason: str
    hint: str = ""
    interpreter: str = ""
