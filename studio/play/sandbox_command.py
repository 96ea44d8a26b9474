"""The bubblewrap command line: what a sandboxed program can see, and as whom it runs.

New user, process, network, IPC, host-name and cgroup namespaces; a read-only root with nothing but the interpreter's folders; one
writable folder in memory with a size; no environment; no /sys, no /etc, no home. A studio that runs as root becomes the user nobody
before bubblewrap starts, because limits on the number of processes do not bind root. That user must be able to read the interpreter.

It does not know containers in which unprivileged namespaces are switched off: bubblewrap fails there, and its words are passed on.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from studio.core.errors import SandboxError

INSTALL_HINT = "Install bubblewrap 0.8 or newer, on Debian and Ubuntu with: apt install bubblewrap"
WORK_FOLDER = "/work"
_SHARED_MEMORY_BYTES = 4 * 1024 * 1024
_SYSTEM_LINKS = ("/bin", "/lib", "/lib32", "/lib64")
_SYSTEM_FOLDERS = ("/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/share/zoneinfo")
_ENVIRONMENT = {
    "HOME": WORK_FOLDER, "TMPDIR": WORK_FOLDER, "PATH": "/usr/bin:/bin", "USER": "sandbox", "LOGNAME": "sandbox",
    "LANG": "C.UTF-8", "TERM": "dumb", "MALLOC_ARENA_MAX": "2",
}  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """User and groups that bubblewrap is started as; None keeps the studio's own."""

    user: int | None
    group: int | None


def find_bubblewrap() -> str:
    """The path of `bwrap`. Raises SandboxError where there is none, or where the system is not Linux."""
    if not sys.platform.startswith("linux"):
        raise SandboxError("Generated code is run on Linux only: this system has no sandbox.", "Run the studio on Linux or in WSL.")
    found = shutil.which("bwrap")
    if found is None:
        raise SandboxError("Generated code is not run: bubblewrap (bwrap) is not installed.", INSTALL_HINT)
    return found


def find_identity() -> Identity:
    """Nobody where the studio runs as root, else the studio's own user."""
    if os.geteuid() != 0:
        return Identity(None, None)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return Identity(65534, 65534)
    return Identity(nobody.pw_uid, nobody.pw_gid)


def _kernel_version() -> tuple[int, int]:
    numbers = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def _threads_of(user: int) -> int:
    count = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            count += len(os.listdir(folder / "task")) if folder.stat().st_uid == user else 0
        except OSError:
            continue  # it ended meanwhile
    return count


def process_ceiling(processes: int) -> int:
    """RLIMIT_NPROC: since Linux 5.14 counted within the sandbox's own user namespace, before that over all of the user's processes."""
    own = 1 + processes
    if _kernel_version() >= (5, 14):
        return own
    user = find_identity().user
    return own + _threads_of(os.geteuid() if user is None else user)


def interpreters() -> list[str]:
    """Python interpreters to try, best first: the system's, which everybody can read, then the one the studio runs on."""
    base = str(getattr(sys, "_base_executable", sys.executable))
    wanted = ["/usr/bin/python3", "/usr/local/bin/python3", base]
    found = [os.path.realpath(path) for path in wanted if os.access(path, os.X_OK)]
    return list(dict.fromkeys(found))


def _system_view() -> list[str]:
    view: list[str] = []
    for folder in _SYSTEM_FOLDERS:
        view += ["--ro-bind-try", folder, folder]
    for name in _SYSTEM_LINKS:
        path = Path(name)
        if path.is_symlink():
            view += ["--symlink", os.readlink(path), name]
        elif path.is_dir():
            view += ["--ro-bind", name, name]
    return view


def _interpreter_view(interpreter: str) -> list[str]:
    """The interpreter's own installation, where it is not part of the system's folders."""
    prefix = Path(interpreter).parent.parent
    if prefix == Path("/usr"):
        return []
    view = ["--ro-bind", f"{prefix}/bin", f"{prefix}/bin", "--ro-bind", f"{prefix}/lib", f"{prefix}/lib"]
    return view


def sandbox_command(bubblewrap: str, interpreter: str, disk_bytes: int, fds: dict[str, int]) -> list[str]:
    """Arguments up to the interpreter's own. `fds` names the open descriptors `seccomp` and `facts` (bubblewrap's own report)."""
    environment = [word for name, value in _ENVIRONMENT.items() for word in ("--setenv", name, value)]
    return [
        bubblewrap, "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox",
        "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv", *environment,
        *_system_view(), *_interpreter_view(interpreter),
        "--proc", "/proc", "--dev", "/dev", "--size", str(_SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm",
        "--size", str(disk_bytes), "--tmpfs", WORK_FOLDER, "--symlink", WORK_FOLDER, "/tmp",
        "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", WORK_FOLDER,
        "--seccomp", str(fds["seccomp"]), "--json-status-fd", str(fds["facts"]),
        "--", interpreter, "-I", "-B", "-X", "utf8",
    ]  # fmt: skip
