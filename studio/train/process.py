"""The training child as a process: who works on a run, how it is asked to end, and how it uses the CPU.

process.json names the worker by pid and start time, because a pid is used again. It is made with O_EXCL, so of two children started
for one run one gives up; what a dead worker left behind is replaced. A worker whose folder is moved or deleted ends: what it went on
writing under the old path nobody would find.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from types import FrameType

import psutil

from studio.core.errors import RunError, from_os_error
from studio.core.files import read_json, write_json
from studio.core.paths import RunPaths

PRIMITIVES_KEPT = 256
"""The last eight widths of a batch or so: compiling the others again costs some 0.5 % of the time (docs/decisions.md)."""
DESCRIPTIONS_KEPT = 64
"""Those of one step: they are quickly made."""


def claim_run(paths: RunPaths) -> None:
    """Write process.json for this process. Raises RunError where another live process works on the run."""
    mine = {"pid": os.getpid(), "started": psutil.Process().create_time()}
    if not is_alive(read_json(paths.process) or {}):
        paths.stop.unlink(missing_ok=True)  # meant for a worker that is dead; this one can only be asked once it is named
    try:
        os.close(os.open(paths.process, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        other = read_json(paths.process) or {}
        if other != mine and is_alive(other):
            raise RunError(
                f"The run {paths.id} is being worked on by process {other.get('pid')}.", "Wait for it to end, or stop it first."
            ) from None
    except OSError as error:
        raise from_os_error(error, "starting the run") from error
    write_json(paths.process, mine)


def is_alive(process: dict[str, object]) -> bool:
    """Whether the process of a process.json still runs; a zombie, or another one with the same pid, does not count."""
    try:
        found = psutil.Process(int(str(process.get("pid", 0))))
        return abs(found.create_time() - float(str(process.get("started", 0)))) < 1 and found.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return False


class Place:
    """The run's folder as it was when this process began; one that was moved away, or made anew under its name, is another."""

    def __init__(self, paths: RunPaths) -> None:
        self.folder = paths.folder
        self.mark = self._look()

    def _look(self) -> tuple[int, int] | None:
        try:
            found = self.folder.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def check(self) -> None:
        """Raises RunError where the folder is not here any more."""
        if self._look() != self.mark:
            raise RunError(
                f"The run's folder {self.folder} was moved or deleted while the run was at work, so it ended.",
                "Start the studio on the home where it is now: the run goes on from its last checkpoint.",
            )

    def sweep(self) -> None:
        """Remove what was still written under the old path in the moment of the move. Never a run's folder: that has a spec.json."""
        if self._look() in (None, self.mark) or (self.folder / "spec.json").exists():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # the runs' folder and the home, where nothing else is in them
            self.folder.parent.rmdir()
            self.folder.parent.parent.rmdir()


def stop_on_signal(paths: RunPaths) -> None:
    """SIGTERM then means the same as the stop file: save, and end."""

    def request_stop(_signal: int, _frame: FrameType | None) -> None:
        paths.stop.touch()

    signal.signal(signal.SIGTERM, request_stop)


def wait_asleep() -> None:
    """Let OpenMP's threads sleep when they wait for each other; before torch is imported, which reads it once.

    By default they spin for milliseconds: nothing lost on an idle machine, but with any other process on the same cores (the studio's
    page, a browser) the one that works is kept from its core by one that only waits.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def keep_few_primitives() -> None:
    """Bound what oneDNN and torch keep of products they have run; before torch is imported, which reads it once.

    Each 16-bit product is compiled for its exact shape (1.5 ms). By default oneDNN keeps the last 1,024, and torch as many descriptions
    of them: 0.3 MB each, some 20 MB for every new width of batch. A step of LoRA needs 30 of both; with fewer every layer would compile
    anew.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(PRIMITIVES_KEPT))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(DESCRIPTIONS_KEPT))


def count_threads() -> int:
    """Cores this process may use, hyper-threads counted once; $OMP_NUM_THREADS where that is fewer."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    limit = int(asked) if asked.isdigit() and int(asked) > 0 else allowed
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed, limit))


@contextlib.contextmanager
def trained_on_cpu() -> Iterator[None]:
    """Within: one thread per physical core, and numbers too small for fp32's normal range are zero (they are slow and carry nothing)."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(count_threads())
    flushing = torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if flushing:
            torch.set_flush_denormal(False)
