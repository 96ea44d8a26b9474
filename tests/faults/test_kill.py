"""kill -9 at random moments (seeded): of a run's process, of the studio, of both; and two studios on one home."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from studio.core.errors import RunError
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunStatus
from studio.jobs import queue, runner, store

pytestmark = pytest.mark.faults

MODULE = "scripted_child"
MOMENTS = range(10)
Check = Callable[[StudioHome], None]
StartStudio = Callable[..., subprocess.Popen[str]]
Spans = Callable[[StudioHome], list[tuple[float, float]]]


def kill_worker(paths: RunPaths) -> None:
    """Kill whoever works on the run, and wait until that process is gone."""
    worker = store.find_worker(paths)
    if worker is not None and worker.is_alive(working_on=paths.id):
        os.kill(worker.pid, 9)
        while worker.is_alive():
            time.sleep(0.005)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_is_lost_within_one_look_and_goes_on_from_its_checkpoint(
    home: StudioHome, start: Callable[..., RunPaths], check_home: Check, drain: Check, moment: int
) -> None:
    paths = start(steps=60)
    time.sleep(random.Random(moment).uniform(0, 0.5))
    kill_worker(paths)
    status = store.read_status(paths)
    assert status in (RunStatus.LOST, RunStatus.FINISHED)
    assert (status is RunStatus.FINISHED) == paths.result.exists()
    assert paths.log.read_text().startswith("begin")
    check_home(home)
    if status is RunStatus.LOST:
        try:
            runner.resume_run(home, paths.id, module=MODULE)
        except RunError as error:
            assert "saved no checkpoint" in error.message and not runner.list_checkpoints(paths)
            return
        drain(home)
        assert store.read_status(paths) is RunStatus.FINISHED
        check_home(home)


def test_a_run_killed_while_it_was_asked_to_stop_goes_on_to_its_end(
    home: StudioHome, start: Callable[..., RunPaths], check_home: Check, drain: Check
) -> None:
    """The request was meant for the process that is dead."""
    paths = start(steps=60)
    while not runner.list_checkpoints(paths):
        time.sleep(0.005)
    worker = store.find_worker(paths)
    assert worker
    os.kill(worker.pid, signal.SIGSTOP)  # so that it does not hear
    assert runner.stop_run(home, paths.id) is RunStatus.STOPPING
    kill_worker(paths)
    assert store.read_status(paths) is RunStatus.LOST and paths.stop.exists()
    runner.resume_run(home, paths.id, module=MODULE)
    drain(home)
    assert store.read_status(paths) is RunStatus.FINISHED
    check_home(home)


@pytest.mark.parametrize("moment", MOMENTS)
def test_runs_go_on_without_their_studio(
    home: StudioHome, start_studio: StartStudio, check_home: Check, drain: Check, spans: Spans, moment: int
) -> None:
    studio = start_studio(runs=3)
    time.sleep(random.Random(moment).uniform(0.3, 1.3))
    studio.kill()
    studio.wait()
    drain(home)
    check_home(home)
    assert {run.status for run in store.list_runs(home)} <= {RunStatus.FINISHED}
    worked = spans(home)
    assert all(begin > end for (begin, _), (_, end) in zip(worked[1:], worked[:-1], strict=True))


@pytest.mark.parametrize("moment", MOMENTS)
def test_studio_and_run_killed_together(
    home: StudioHome, start_studio: StartStudio, check_home: Check, drain: Check, moment: int
) -> None:
    studio = start_studio(runs=3)
    time.sleep(random.Random(100 + moment).uniform(0.3, 1.3))
    studio.kill()
    studio.wait()
    busy = queue.active_run(home)
    if busy is not None:
        kill_worker(busy)
        assert store.read_status(busy) in (RunStatus.LOST, RunStatus.FINISHED)
    drain(home)
    check_home(home)
    ends = [run.status for run in store.list_runs(home)]
    assert ends.count(RunStatus.LOST) <= (busy is not None) and set(ends) <= {RunStatus.LOST, RunStatus.FINISHED}
    for run in store.list_runs(home):
        if run.status is RunStatus.LOST and runner.list_checkpoints(home.run(run.id)):
            runner.resume_run(home, run.id, module=MODULE)
            drain(home)
            assert store.read_status(home.run(run.id)) is RunStatus.FINISHED
    check_home(home)


def test_two_studios_never_work_at_once(
    home: StudioHome, start_studio: StartStudio, check_home: Check, spans: Spans
) -> None:
    for name in ("left", "right"):
        start_studio(runs=5, steps=10, name=name)
    deadline = time.monotonic() + 60
    while len(ends := [run.status for run in store.list_runs(home)]) < 10 or set(ends) != {RunStatus.FINISHED}:
        assert time.monotonic() < deadline, ends
        time.sleep(0.05)
    while queue.active_run(home):
        time.sleep(0.02)
    worked = spans(home)
    assert len(worked) == 10
    assert all(begin > end for (begin, _), (_, end) in zip(worked[1:], worked[:-1], strict=True))
    check_home(home)
