"""The queue: one run at a time works on the device, however many studios and command lines look at the same home.

What waits is read from the folders; only the order a person chose is kept (queue.json). Whoever finds the device free takes the
home's lock, frees the playground's memory and starts the first run that waits. The lock is held until the child has written
process.json, so that nobody else sees the device free in between. Of a studio that dies in that moment the child is found again by
its command line, so a run is never started twice. Starting is all a queue does: a failed run does not stop the next.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import filelock
import psutil

from studio.core.errors import RunError, StudioError, WorkerError
from studio.core.files import read_json, read_tail, write_json
from studio.core.paths import RUN_ID, RunPaths, StudioHome
from studio.core.records import RunResult, RunStatus
from studio.jobs.process import ProcessIdentity, end_group, find_process, find_processes
from studio.jobs.store import find_worker, is_process_alive, read_progress, read_result
from studio.jobs.worker import CHILD_ENVIRONMENT

TRAIN_MODULE = "studio.train"
PLAY_MODULE = "studio.play"
START_TIMEOUT_S = 120.0
STOP_GRACE_S = 300.0
LINGER_S = 120.0
"""A process may live on for a moment after its result, and holds its memory until it is gone."""

log = logging.getLogger(__name__)
_children: list[subprocess.Popen[bytes]] = []


def advance_queue(home: StudioHome, module: str = TRAIN_MODULE) -> str | None:
    """Start the run whose turn it is, if the device is free; its id, or None. Cheap and safe to call at any time, from anywhere."""
    reap_children()
    _end_overdue(home)
    if not waiting_runs(home) or active_run(home) is not None:
        return None
    try:
        with lock_queue(home, timeout_s=0):
            waiting = waiting_runs(home)
            if not waiting or active_run(home) is not None:
                return None
            return _start(home, waiting[0], module)
    except filelock.Timeout:
        return None


def lock_queue(home: StudioHome, timeout_s: float) -> Any:
    """The home's lock as a context. Raises filelock.Timeout when somebody holds it for longer."""
    return filelock.FileLock(home.queue_lock, timeout=timeout_s, thread_local=False)


def waiting_runs(home: StudioHome) -> list[RunPaths]:
    """The runs that wait, in the order they will start: as a person ordered them, then as they came."""
    order = (read_json(home.queue) or {}).get("order")
    rank = {str(name): i for i, name in enumerate(order if isinstance(order, list) else [])}
    waiting = [paths for paths in _unsettled_runs(home) if not paths.result.exists() and not paths.process.exists()]
    return sorted(waiting, key=lambda paths: (rank.get(paths.id, len(rank)), paths.id[:15], _written_ns(paths.spec), paths.id))


def move_in_queue(home: StudioHome, run_id: str, position: int) -> list[str]:
    """Let a waiting run start as number `position` (from 0); the new order. Raises RunNotFound, or RunError where it does not wait."""
    home.run(run_id)
    order = [paths.id for paths in waiting_runs(home)]
    if run_id not in order:
        raise RunError(f"Run {run_id} does not wait, so it cannot be moved in the queue.")
    order.remove(run_id)
    order.insert(max(0, position), run_id)
    write_json(home.queue, {"order": order})
    return order


def active_run(home: StudioHome) -> RunPaths | None:
    """The run a process works on now; also one that has its result but has not given its memory back yet."""
    return next((paths for paths in _unsettled_runs(home) if paths.process.exists() and is_process_alive(paths)), None)


def _unsettled_runs(home: StudioHome) -> list[RunPaths]:
    """The runs that a process may work on or is to work on; those long over cost one look at a file's time each."""
    now, found = time.time(), []
    try:
        names = os.listdir(home.runs)
    except OSError:
        return []
    for name in names:
        paths = RunPaths(home.runs / name)
        with contextlib.suppress(OSError):
            if now - os.stat(paths.result).st_mtime > LINGER_S:
                continue
        if RUN_ID.fullmatch(name) and paths.spec.is_file():
            found.append(paths)
    return sorted(found, key=lambda paths: paths.id)


def reap_children() -> None:
    """Take leave of ended children, so that none stays a zombie."""
    _children[:] = [child for child in list(_children) if child.poll() is None]


class QueueThread(threading.Thread):
    """Advances the home's queue about once a second for as long as the studio lives."""

    def __init__(self, home: StudioHome, module: str = TRAIN_MODULE, every_s: float = 1.0) -> None:
        super().__init__(name="queue", daemon=True)
        self.home, self.module, self.every_s = home, module, every_s
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self.every_s):
            try:
                advance_queue(self.home, self.module)
            except (StudioError, OSError, psutil.Error) as error:
                log.warning("The queue could not go on: %s", error)

    def stop(self) -> None:
        self._ended.set()


def fail_run(paths: RunPaths, error: StudioError) -> None:
    """Write the result of a run whose process could not write it."""
    steps = read_progress(paths).step
    write_json(paths.result, RunResult(RunStatus.FAILED, steps=steps, error=error.to_json()).to_json())


def _start(home: StudioHome, paths: RunPaths, module: str) -> str | None:
    """Start one run and wait until its process has said who it is. The caller holds the lock."""
    if find_process(paths.id) is not None:  # of a studio that died while starting it: it will write process.json itself
        return None
    unload_playground(home)
    try:
        child = _spawn(paths, module)
    except OSError as error:
        fail_run(paths, RunError(f"The run's process could not be started: {error.strerror}.", "Close other programs and try again."))
        return None
    _children.append(child)
    deadline = time.monotonic() + START_TIMEOUT_S
    while ProcessIdentity.from_json(read_json(paths.process)) is None:
        ended = child.poll() is not None
        if ended and (paths.result.exists() or paths.process.exists()):
            break
        if ended or time.monotonic() > deadline:
            child.kill()
            child.wait()
            end = read_tail(paths.log, 2000).strip()
            fail_run(paths, WorkerError("The run's process ended before it began.", f"The end of its log: {end}" if end else ""))
            return None
        time.sleep(0.01)
    return paths.id


def _spawn(paths: RunPaths, module: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", module, str(paths.folder)]
    checkpoint = str((read_json(paths.resume) or {}).get("checkpoint") or "").replace("\0", "")
    if checkpoint:
        command += ["--resume", str(paths.checkpoints / Path(checkpoint).name)]
    with paths.log.open("ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, **CHILD_ENVIRONMENT},
        )  # fmt: skip


def unload_playground(home: StudioHome) -> None:
    """End the playground's worker of any studio on this home, so that its memory is free."""
    named = ProcessIdentity.from_json(read_json(home.playground))
    # The file names one worker; a second studio or a command line on this home may have another.
    found = find_processes(PLAY_MODULE, str(home.root))
    for identity in [named, *found] if named else found:
        end_group(identity, grace_s=3.0)
    home.playground.unlink(missing_ok=True)


def _end_overdue(home: StudioHome) -> None:
    """End a run that was asked to stop and has neither saved nor ended within its grace."""
    paths = active_run(home)
    if paths is None or not paths.stop.exists():
        return
    grace_s = (read_json(paths.stop) or {}).get("grace_s")
    if _age_s(paths.stop) > (grace_s if isinstance(grace_s, (int, float)) else STOP_GRACE_S):
        end_run_process(paths, grace_s=5.0)
        if read_result(paths) is None:
            hint = "It can be resumed from its last checkpoint."
            fail_run(paths, RunError("The run did not save and end in time, so it was ended.", hint))


def end_run_process(paths: RunPaths, grace_s: float) -> None:
    """End the process group that works on the run; nothing when none does."""
    identity = find_worker(paths)
    if identity is not None:
        end_group(identity, grace_s=grace_s, working_on=paths.id)
    reap_children()


def _written_ns(path: Path) -> int:
    """Two runs asked for in the same second still start in the order they came."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns
    return 0


def _age_s(path: Path) -> float:
    """Seconds since a file was written; 0 for one that is gone or from the future."""
    with contextlib.suppress(OSError):
        return max(0.0, time.time() - path.stat().st_mtime)
    return 0.0
