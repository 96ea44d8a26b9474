"""Where and as whom the sandbox runs: as an ordinary user, beside a studio that is killed, and where none can be had."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import studio
from studio.core.errors import SandboxError
from studio.play import sandbox, sandbox_command, sandbox_watch
from studio.play.sandbox import run_code, sandbox_status
from studio.play.sandbox_watch import processes_below


@pytest.fixture
def fresh_status() -> Iterator[None]:
    sandbox._find_interpreter.cache_clear()
    yield
    sandbox._find_interpreter.cache_clear()


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


STUDIO_TO_KILL = """
from studio.play.sandbox import SandboxLimits, run_code, sandbox_status
sandbox_status()
print("ready", flush=True)
run_code("import time; time.sleep(600)", limits=SandboxLimits(wall_s=600))
"""


def test_a_killed_studio_takes_its_sandboxes_along() -> None:
    root = Path(studio.__file__).parents[1]
    deadline_s = time.monotonic() + 60
    with subprocess.Popen([sys.executable, "-c", STUDIO_TO_KILL], cwd=root, stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None and parent.stdout.readline() == b"ready\n"
            below: list[int] = []
            while len(below) < 3 and time.monotonic() < deadline_s:  # bubblewrap, process 1, the program
                time.sleep(0.05)
                below = processes_below(parent.pid)
            assert len(below) == 3
        finally:
            parent.kill()
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
def test_where_namespaces_are_off_bubblewraps_words_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in fails as bubblewrap does in such a container; once the real one is found, code runs without a restart."""
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        refusing = Path(folder, "bwrap")
        refusing.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
        refusing.chmod(0o755)
        with monkeypatch.context() as patch:
            patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
            with pytest.raises(SandboxError, match="No permissions to create new namespace") as raised:
                run_code("print(1)")
        assert "namespaces" in raised.value.hint
    assert run_code("print(1)").stdout == "1\n"


@pytest.mark.usefixtures("fresh_status")
def test_an_unknown_machine_has_no_filter_and_so_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "seccomp_filter", lambda machine: None)
    with pytest.raises(SandboxError, match="no system call filter"):
        run_code("print(1)")


@pytest.mark.usefixtures("fresh_status")
def test_an_interpreter_that_cannot_be_used_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    good = sandbox_status().interpreter
    sandbox._find_interpreter.cache_clear()
    monkeypatch.setattr(sandbox, "interpreters", lambda: ["/usr/bin/false", good])
    assert sandbox_status().interpreter == good
    sandbox._find_interpreter.cache_clear()
    monkeypatch.setattr(sandbox, "interpreters", lambda: [])
    assert "no Python interpreter" in sandbox_status().reason


def test_the_status_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    first = sandbox_status()
    monkeypatch.setattr(sandbox, "interpreters", lambda: [])
    assert sandbox_status() == first


def test_no_descriptor_and_no_process_is_left_behind() -> None:
    run_code("print(1)")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run_code("print(1)")
    assert len(os.listdir("/proc/self/fd")) == before
    assert not [pid for pid in processes_below(os.getpid()) if "bwrap" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_what_interrupts_the_studio_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: sandbox_watch.Watcher) -> None:
        if self.seen.streams["status"]:
            raise KeyboardInterrupt

    monkeypatch.setattr(sandbox_watch.Watcher, "check", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_code("import time; time.sleep(600)")
    assert not [pid for pid in processes_below(os.getpid()) if "bwrap" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_children_are_found_with_and_without_the_kernels_list(monkeypatch: pytest.MonkeyPatch) -> None:
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    try:
        listed, scanned = sandbox_watch.children_of(os.getpid()), sandbox_watch._scan_for_children(os.getpid())
        assert {child.pid for child in children} <= set(listed)
        assert set(scanned) == set(listed)
        monkeypatch.setattr(sandbox_watch, "_kernel_lists_children", lambda: False)
        held = run_code(
            "import os, time\nfor _ in range(8):\n    if os.fork() == 0: x = os.urandom(60 << 20); time.sleep(60)\ntime.sleep(60)"
        )
        assert held.reason == "out of memory"
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_an_interpreter_outside_the_system_folders_is_brought_along() -> None:
    command = sandbox_command.sandbox_command("bwrap", "/opt/python/bin/python3.12", 1, {"seccomp": 3, "facts": 4})
    text = " ".join(command)
    assert "--ro-bind /opt/python/bin /opt/python/bin --ro-bind /opt/python/lib /opt/python/lib" in text
    assert "--bind " not in text and "--share-net" not in text
    assert " -- /opt/python/bin/python3.12 -I " in text
