"""Where and as whom the sandbox runs: as an ordinary user, beside a studio that is killed, and where none can be had."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import studio
from studio.core.errors import SandboxError
from studio.play import sandbox, sandbox_command
from studio.play.sandbox import run_code, sandbox_status
from studio.play.sandbox_watch import processes_below


@pytest.fixture
def fresh_status() -> Iterator[None]:
    sandbox_status.cache_clear()
    yield
    sandbox_status.cache_clear()


@pytest.fixture
def readable_studio() -> Iterator[Path]:
    """The sandbox's modules in a folder that everybody can read."""
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        source = Path(studio.__file__).parent
        for name in ("__init__.py", "core/__init__.py", "core/errors.py", "play/__init__.py"):
            target = Path(folder, "studio", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target)
        for path in (source / "play").glob("sandbox*.py"):
            shutil.copy(path, Path(folder, "studio", "play", path.name))
        yield Path(folder)


AS_A_USER = """
import json, os
from studio.play.sandbox import SandboxLimits, run_code, sandbox_status
assert os.geteuid() != 0
status = sandbox_status()
fork = "import os\\nwhile True:\\n    try: os.fork()\\n    except OSError: pass"
memory = "import os, time\\nfor _ in range(8):\\n    if os.fork() == 0:\\n        x = os.urandom(60 << 20); time.sleep(60)\\ntime.sleep(60)"
files = "i = 0\\nwhile True:\\n    open(f'f{i}', 'w').close(); i += 1"
results = [run_code(source, limits=SandboxLimits(wall_s=w)) for source, w in [("print(6 * 7)", 9), (fork, 0.7), (memory, 9), (files, 9)]]
print(json.dumps([status.available, status.reason, [r.reason for r in results], results[0].stdout, results[0].peak_memory_bytes]))
"""


def test_a_studio_of_an_ordinary_user_has_the_same_sandbox(readable_studio: Path) -> None:
    """Where the tests run as root the studio's part is started as nobody, with an interpreter nobody can read."""
    identity = sandbox_command.find_identity()
    done = subprocess.run(
        [sandbox_status().interpreter, "-B", "-c", AS_A_USER],
        user=identity.user, group=identity.group, extra_groups=None if identity.user is None else [],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(readable_studio)}, cwd=readable_studio,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    available, reason, reasons, stdout, peak_bytes = json.loads(done.stdout)
    assert available, reason
    assert reasons == ["ok", "timed out", "out of memory", "too many files"]
    assert stdout == "42\n" and peak_bytes > 2**20


def test_a_killed_studio_takes_its_sandboxes_along() -> None:
    code = "from studio.play.sandbox import run_code\nrun_code('import time; print(1, flush=True); time.sleep(600)')"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(studio.__file__).parents[1])
    deadline_s = time.monotonic() + 30
    below: list[int] = []
    while len(below) < 3 and time.monotonic() < deadline_s:  # bubblewrap, process 1, the program
        below = processes_below(parent.pid)
        time.sleep(0.02)
    time.sleep(0.2)  # let the last of them ask the kernel to die with its parent
    below = processes_below(parent.pid)
    assert len(below) == 3
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    while any(_alive(pid) for pid in below) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert [pid for pid in below if _alive(pid)] == []


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.usefixtures("fresh_status")
def test_without_bubblewrap_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert not sandbox_status().available
    with pytest.raises(SandboxError, match="bubblewrap") as raised:
        run_code("print(1)")
    assert "apt install bubblewrap" in raised.value.hint


@pytest.mark.usefixtures("fresh_status")
@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_on_other_systems_nothing_is_run(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(sandbox_command.sys, "platform", platform)
    with pytest.raises(SandboxError, match="Linux only"):
        run_code("print(1)")


@pytest.mark.usefixtures("fresh_status")
def test_where_namespaces_are_off_bubblewraps_words_are_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in for bubblewrap fails as it does in such a container, and one that is too old fails on the option it lacks."""
    refusing = tmp_path / "bwrap"
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)
    refusing.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SandboxError, match="No permissions to create new namespace") as raised:
        run_code("print(1)")
    assert "namespaces" in raised.value.hint


@pytest.mark.usefixtures("fresh_status")
def test_an_unknown_machine_has_no_filter_and_so_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "seccomp_filter", lambda machine: None)
    with pytest.raises(SandboxError, match="no system call filter"):
        run_code("print(1)")


@pytest.mark.usefixtures("fresh_status")
def test_an_interpreter_that_cannot_be_used_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    good = sandbox_status().interpreter
    sandbox_status.cache_clear()
    monkeypatch.setattr(sandbox, "interpreters", lambda: ["/usr/bin/false", good])
    assert sandbox_status().interpreter == good
    sandbox_status.cache_clear()
    monkeypatch.setattr(sandbox, "interpreters", lambda: [])
    assert "no Python interpreter" in sandbox_status().reason


def test_the_status_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    first = sandbox_status()
    monkeypatch.setattr(sandbox, "interpreters", lambda: [])
    assert sandbox_status() is first


def test_no_descriptor_and_no_process_is_left_behind() -> None:
    run_code("print(1)")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run_code("print(1)")
    assert len(os.listdir("/proc/self/fd")) == before
    assert not [pid for pid in processes_below(os.getpid()) if "bwrap" in Path(f"/proc/{pid}/cmdline").read_text()]
