"""A full disk, a clock that jumps, a home that moves, a pid that is used again, a zombie."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from studio.core.errors import DiskFull, RunError
from studio.core.files import read_json, write_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunNotes, RunStatus
from studio.core.spec import RunSpec
from studio.jobs import notes, queue, runner, store

pytestmark = pytest.mark.faults

MODULE = "scripted_child"
Start = Callable[..., RunPaths]
Check = Callable[[StudioHome], None]


def wait_for_step(paths: RunPaths, step: int) -> None:
    deadline = time.monotonic() + 20
    while (read_json(paths.progress) or {}).get("step", 0) < step:
        assert time.monotonic() < deadline, store.read_log(paths)
        time.sleep(0.01)


def kill_worker(paths: RunPaths) -> None:
    worker = store.find_worker(paths)
    assert worker and worker.is_alive(working_on=paths.id)
    os.kill(worker.pid, 9)
    while worker.is_alive():
        time.sleep(0.005)


@pytest.fixture
def fill_disk(studio_home: Path) -> Iterator[Callable[[RunPaths], Callable[[], None]]]:
    """Fill the disk under a run; what it returns makes room again. A real file system of 4 MB where one may be mounted.

    Elsewhere the run's process may not write files of more than 1,000 bytes, so that its curve cannot grow.
    """
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(studio_home)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0

    def fill(paths: RunPaths) -> Callable[[], None]:
        if not mounted:
            worker = store.find_worker(paths)
            assert worker
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (1_000, 1_000))
            return lambda: None
        ballast = studio_home / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
        assert shutil.disk_usage(studio_home).free == 0
        return ballast.unlink

    yield fill
    if mounted:
        subprocess.run(["umount", "-l", str(studio_home)], check=True)


def test_a_full_disk_loses_no_checkpoint(
    fill_disk: Callable[[RunPaths], Callable[[], None]], home: StudioHome, start: Start, check_home: Check, drain: Check
) -> None:
    paths = start(steps=5000, pause_s=0.002)
    wait_for_step(paths, 11)
    make_room = fill_disk(paths)
    deadline = time.monotonic() + 20
    while store.is_process_alive(paths):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    make_room()
    assert store.read_status(paths) in (RunStatus.LOST, RunStatus.FAILED)
    check_home(home)
    saved = [path.name for path in runner.list_checkpoints(paths)]
    assert saved[:2] == ["step-000005", "step-000010"]
    runner.resume_run(home, paths.id, changes={"training": {"max_steps": int(saved[-1][5:]) + 7}}, module=MODULE)
    drain(home)
    assert store.read_status(paths) is RunStatus.FINISHED
    check_home(home)


def test_on_a_full_disk_nothing_half_is_made_and_runs_can_still_be_ended(
    home: StudioHome, start: Start, check_home: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, other = start("busy", steps=5000), start("other")
    wait_for_step(busy, 6)
    notes.write_notes(home, busy.id, RunNotes("before"))

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFull):
            start("never")
        with pytest.raises(DiskFull):
            notes.write_notes(home, busy.id, RunNotes("after"))
        with pytest.raises(DiskFull):
            queue.move_in_queue(home, other.id, 0)
        assert runner.stop_run(home, busy.id) in (RunStatus.STOPPING, RunStatus.STOPPED)
    assert store.read_notes(busy).name == "before"
    assert len(store.run_folders(home)) == 2
    assert not list(home.root.rglob(".notes.json.*"))
    while not store.read_status(busy).is_over:
        time.sleep(0.02)
    assert store.read_status(busy) is RunStatus.STOPPED
    runner.cancel_run(home, other.id)


def test_a_clock_that_was_set_loses_no_run(home: StudioHome, start: Start, check_home: Check) -> None:
    paths = start(steps=5000)
    wait_for_step(paths, 3)
    process = read_json(paths.process)
    assert process
    for hours in (-24 * 365, -1, 1, 24 * 365):
        write_json(paths.process, {**process, "started": process["started"] + 3600 * hours})
        assert store.read_status(paths) is RunStatus.RUNNING
        assert queue.active_run(home) == paths
    runner.stop_run(home, paths.id, grace_s=30)
    os.utime(paths.stop, (time.time() + 1e6, time.time() + 1e6))
    assert queue.advance_queue(home, MODULE) is None
    while not store.read_status(paths).is_over:
        time.sleep(0.02)
    assert store.read_status(paths) is RunStatus.STOPPED


def test_runs_from_the_future_and_the_past_are_runs(home: StudioHome, start: Start, drain: Check, check_home: Check) -> None:
    present = start(steps=5)
    drain(home)
    for stamp in ("20990101-000000", "19700101-000000"):
        shutil.copytree(present.folder, home.runs / f"{stamp}-run")
    future = RunPaths(home.runs / "20990101-000000-run")
    for file in future.folder.iterdir():
        os.utime(file, (4_070_000_000, 4_070_000_000))
    assert [(run.id, run.status) for run in store.list_runs(home)] == [
        (future.id, RunStatus.FINISHED), (present.id, RunStatus.FINISHED), ("19700101-000000-run", RunStatus.FINISHED)
    ]  # fmt: skip
    runner.extend_run(home, future.id, max_steps=8, module=MODULE)
    drain(home)
    assert store.read_status(future) is RunStatus.FINISHED
    check_home(home)


def test_a_home_that_moves_under_a_run_keeps_it(home: StudioHome, start: Start, drain: Check) -> None:
    done = start("done", steps=10)
    drain(home)
    paths = start("busy", steps=5000)
    wait_for_step(paths, 12)
    moved = StudioHome(home.root.with_name("moved"))
    home.root.rename(moved.root)
    there = moved.run(paths.id)
    assert store.read_status(there) is RunStatus.RUNNING
    assert queue.active_run(moved) == there
    worker = store.find_worker(there)
    assert worker
    with contextlib.suppress(ProcessLookupError):  # it found its folder gone
        os.kill(worker.pid, 9)
    while worker.is_alive():
        time.sleep(0.01)
    assert store.read_status(there) is RunStatus.LOST
    for run_id, steps in ((paths.id, 15), (done.id, 12)):
        step = int(runner.list_checkpoints(moved.run(run_id))[-1].name[5:])
        runner.extend_run(moved, run_id, max_steps=max(steps, step + 3), module=MODULE)
        drain(moved)
        assert store.read_status(moved.run(run_id)) is RunStatus.FINISHED


def test_a_pid_that_is_used_again_is_not_the_run(home: StudioHome, start: Start, check_home: Check, drain: Check) -> None:
    paths = start(steps=60)
    wait_for_step(paths, 12)
    kill_worker(paths)
    stranger = subprocess.Popen([sys.executable, "-m", "sleeping_child", "nothing"], start_new_session=True)
    try:
        write_json(paths.process, {"pid": stranger.pid, "started": psutil.Process(stranger.pid).create_time() - 4000})
        assert store.read_status(paths) is RunStatus.LOST
        with pytest.raises(RunError, match="lost, so it cannot be cancelled"):
            runner.cancel_run(home, paths.id)
        with pytest.raises(RunError, match="lost, so it cannot be stopped"):
            runner.stop_run(home, paths.id)
        queue.end_run_process(paths, grace_s=0)
        queue.advance_queue(home, MODULE)
        assert stranger.poll() is None
        runner.resume_run(home, paths.id, module=MODULE)
        drain(home)
        assert store.read_status(paths) is RunStatus.FINISHED
        assert stranger.poll() is None
        check_home(home)
    finally:
        stranger.kill()
        stranger.wait()


def test_a_zombie_works_on_nothing(home: StudioHome) -> None:
    """A parent that never takes leave of its child, as a container without init is."""
    paths = RunPaths(home.runs / "20260101-000000-zombie")
    write_json(paths.spec, RunSpec.parse({"data": {"system_prompt": "0.01"}, "training": {"max_steps": 5000}}).to_json())
    child = subprocess.Popen([sys.executable, "-m", MODULE, str(paths.folder)], start_new_session=True, stdout=subprocess.DEVNULL)
    wait_for_step(paths, 2)
    assert store.read_status(paths) is RunStatus.RUNNING
    os.kill(child.pid, 9)
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.005)
    assert store.read_status(paths) is RunStatus.LOST
    assert queue.active_run(home) is None
    child.wait()
