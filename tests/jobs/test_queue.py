"""One run at a time, in order, whatever happens to the others. Real processes of the scripted child."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import filelock
import psutil
import pytest

from studio.core.errors import RunError, RunNotFound
from studio.core.files import write_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunStatus
from studio.core.spec import RunSpec
from studio.jobs import queue, runner
from studio.jobs.store import read_result, read_status, run_folders

MODULE = "scripted_child"
MakeSpec = Callable[..., RunSpec]


def start(home: StudioHome, spec: RunSpec) -> RunPaths:
    return home.run(runner.start_run(home, spec, module=MODULE))


def drain(home: StudioHome) -> list[str]:
    """Let the queue run empty and the last process go; the ids in the order they were started."""
    started = []
    deadline = time.monotonic() + 30
    while queue.active_run(home) or any(not read_status(paths).is_over for paths in run_folders(home)):
        assert time.monotonic() < deadline
        if (run_id := queue.advance_queue(home, MODULE)) is not None:
            started.append(run_id)
        time.sleep(0.01)
    return started


def test_runs_start_one_after_the_other_as_they_came(home: StudioHome, make_spec: MakeSpec) -> None:
    runs = [start(home, make_spec(name, steps=4)) for name in ("c", "a", "b")]
    assert [read_status(paths) for paths in runs][1:] == [RunStatus.QUEUED, RunStatus.QUEUED]
    assert drain(home) == [paths.id for paths in runs[1:]]
    words = [paths.log.read_text().split() for paths in runs]  # begin T pid P end T
    begun, ended = [float(said[1]) for said in words], [float(said[5]) for said in words]
    assert all(begin > end for begin, end in zip(begun[1:], ended[:-1], strict=True))


def test_the_order_can_be_changed(home: StudioHome, make_spec: MakeSpec) -> None:
    busy, a, b, c = (start(home, make_spec(name, steps=200)) for name in ("busy", "a", "b", "c"))
    assert queue.move_in_queue(home, c.id, 0) == [c.id, a.id, b.id]
    assert queue.move_in_queue(home, a.id, 99) == [c.id, b.id, a.id]
    with pytest.raises(RunError, match="does not wait"):
        queue.move_in_queue(home, busy.id, 0)
    with pytest.raises(RunNotFound):
        queue.move_in_queue(home, "../x", 0)
    newest = start(home, make_spec("newest"))
    runner.cancel_run(home, busy.id)
    write_json(home.queue, {"order": [c.id, b.id, "long-gone", a.id]})
    assert [paths.id for paths in queue.waiting_runs(home)] == [c.id, b.id, a.id, newest.id]
    runner.cancel_run(home, b.id)
    assert drain(home) == [c.id, a.id, newest.id]


@pytest.mark.parametrize("content", ["", "{", '{"order": 3}', '{"order": [1, null, []]}', "[]"])
def test_a_broken_order_is_no_order(home: StudioHome, make_spec: MakeSpec, content: str) -> None:
    busy, a = start(home, make_spec("busy", steps=5000)), start(home, make_spec("a"))
    home.queue.write_text(content)
    assert [paths.id for paths in queue.waiting_runs(home)] == [a.id]
    runner.cancel_run(home, busy.id)


def test_a_failed_run_does_not_stop_the_next(home: StudioHome, make_spec: MakeSpec) -> None:
    first, second = start(home, make_spec("first", script="die")), start(home, make_spec("second", steps=2))
    drain(home)
    third = home.run(runner.start_run(home, make_spec("third", steps=2), module="no_such_module"))
    fourth = start(home, make_spec("fourth", steps=2))
    drain(home)
    ends = [read_status(paths).value for paths in (first, second, third, fourth)]
    assert ends == ["lost", "finished", "failed", "finished"]
    assert "about to die" in first.log.read_text()


def test_while_somebody_starts_a_run_nobody_else_does(home: StudioHome, make_spec: MakeSpec) -> None:
    with filelock.FileLock(home.queue_lock):
        paths = start(home, make_spec(steps=2))
        assert queue.advance_queue(home, MODULE) is None
        assert read_status(paths) is RunStatus.QUEUED
    assert queue.advance_queue(home, MODULE) == paths.id


def test_a_child_whose_studio_died_while_starting_it_is_not_started_twice(home: StudioHome, make_spec: MakeSpec) -> None:
    busy, paths = start(home, make_spec("busy", steps=5000)), start(home, make_spec("mine"))
    slow = subprocess.Popen([sys.executable, "-m", "sleeping_child", str(paths.folder)], start_new_session=True)
    try:
        runner.cancel_run(home, busy.id)
        assert queue.advance_queue(home, MODULE) is None
        assert not paths.log.exists()
    finally:
        slow.kill()
        slow.wait()
    assert queue.advance_queue(home, MODULE) == paths.id


def test_the_playground_of_any_studio_is_ended_first(home: StudioHome, make_spec: MakeSpec) -> None:
    sleep = [sys.executable, "-m", "sleeping_child"]
    named = subprocess.Popen(sleep, start_new_session=True)
    other = subprocess.Popen([*sleep, "studio.play", "--home", str(home.root)], start_new_session=True)
    foreign = subprocess.Popen([*sleep, "studio.play", "--home", f"{home.root}-2"], start_new_session=True)
    try:
        write_json(home.playground, {"pid": named.pid, "started": psutil.Process(named.pid).create_time()})
        start(home, make_spec(steps=2))
        assert named.wait(5) == other.wait(5) == -15
        assert foreign.poll() is None
        assert not home.playground.exists()
    finally:
        for process in (named, other, foreign):
            process.kill()
            process.wait()


def test_a_run_that_has_ended_but_not_gone_still_holds_the_device(home: StudioHome, make_spec: MakeSpec) -> None:
    busy, waiting = start(home, make_spec("busy", steps=5000)), start(home, make_spec("waiting"))
    write_json(busy.result, {"status": "finished"})
    assert queue.active_run(home) == busy
    assert queue.advance_queue(home, MODULE) is None
    queue.end_run_process(busy, grace_s=0)
    assert queue.advance_queue(home, MODULE) == waiting.id


@pytest.mark.parametrize("resume", ['{"checkpoint": "a\\u0000b"}', '{"checkpoint": [1]}', '{"checkpoint": "step-000005", "spec": 7}', "{}"])
def test_a_wish_to_resume_that_nobody_wrote_does_not_stop_the_queue(home: StudioHome, make_spec: MakeSpec, resume: str) -> None:
    busy, odd = start(home, make_spec("busy", steps=5000)), start(home, make_spec("odd"))
    odd.resume.write_text(resume)
    runner.cancel_run(home, odd.id)  # asks resume.json what the run was before
    odd.result.unlink(missing_ok=True)
    odd.resume.write_text(resume)
    runner.cancel_run(home, busy.id)
    after = start(home, make_spec("after", steps=2))
    drain(home)
    assert read_status(odd).is_over and read_status(after) is RunStatus.FINISHED


def test_ended_children_do_not_stay_zombies(home: StudioHome, make_spec: MakeSpec) -> None:
    start(home, make_spec(steps=1))
    drain(home)
    time.sleep(0.2)
    queue.reap_children()
    assert not [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE and child.pid]


def test_the_thread_starts_what_waits_and_survives_a_failure(
    home: StudioHome, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, waiting = start(home, make_spec("busy", steps=5000)), start(home, make_spec("waiting", steps=2))
    calls = []

    def fail_once(home: StudioHome, module: str) -> str | None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("no room")
        return advance(home, module)

    advance = queue.advance_queue
    monkeypatch.setattr(queue, "advance_queue", fail_once)
    thread = queue.QueueThread(home, MODULE, every_s=0.02)
    thread.start()
    runner.cancel_run(home, busy.id)
    deadline = time.monotonic() + 20
    while read_result(waiting) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    thread.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert read_status(waiting) is RunStatus.FINISHED
