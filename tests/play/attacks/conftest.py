"""Runs one attack and then looks for what it may have left: a live process, a touched file, a visitor on the host's socket."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from studio.play.sandbox import SandboxLimits, SandboxResult, run_code

Attack = Callable[..., SandboxResult]


def alive_in(pid_namespace: int, before_s: float) -> list[int]:
    """Processes of that namespace that began before `before_s` (seconds since boot); a later one is of a newer namespace of that number."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            namespace = os.readlink(entry / "ns" / "pid")
            ticks = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[19])
        except (OSError, IndexError):
            continue  # gone meanwhile, or another user's
        if namespace == f"pid:[{pid_namespace}]" and ticks / os.sysconf("SC_CLK_TCK") < before_s:
            found.append(int(entry.name))
    return found


@pytest.fixture
def attack() -> Attack:
    """Runs a program under short limits (override by name), and proves that nothing of it lives on."""

    def run(source: str, **limits: float) -> SandboxResult:
        result = run_code(source, limits=SandboxLimits(**{"wall_s": 8.0, **limits}))
        ended_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        assert result.pid_namespace > 0
        assert alive_in(result.pid_namespace, ended_s) == []
        return result

    return run


@pytest.fixture
def attack_all(attack: Attack) -> Callable[..., dict[str, SandboxResult]]:
    """Several programs at once under the same limits: what most of them do is wait for the clock."""

    def run(sources: dict[str, str], **limits: float) -> dict[str, SandboxResult]:
        with ThreadPoolExecutor(6) as pool:
            running = {name: pool.submit(attack, source, **limits) for name, source in sources.items()}
        return {name: one.result() for name, one in running.items()}

    return run


@pytest.fixture
def secret_file() -> Iterator[Path]:
    """A file of the host that everybody may read and write; it must stay unread and as it is."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        path = Path(folder, "secret.txt")
        path.write_text("canary-5163")
        path.chmod(0o666)
        yield path
        assert path.read_text() == "canary-5163"
        assert os.listdir(folder) == ["secret.txt"]


@pytest.fixture
def listener() -> Iterator[int]:
    """The port of a real server on the host's loopback, which nobody may reach."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            pass  # it can be reached from here
        yield port
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()
