from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from studio.core.paths import StudioHome
from studio.jobs.process import ProcessIdentity, end_group, find_process, find_processes, wait_for_end

SLEEP = "import time; time.sleep(60)"


def start(*arguments: str, code: str = SLEEP) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], start_new_session=True, stdout=subprocess.PIPE)


def test_a_process_is_known_until_it_ends() -> None:
    child = start()
    identity = ProcessIdentity.of(child.pid)
    assert identity and identity.is_alive()
    child.kill()
    child.wait()
    assert not identity.is_alive()
    assert ProcessIdentity.of(child.pid) is None


def test_a_zombie_is_dead() -> None:
    child = start(code="")
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not ProcessIdentity(child.pid, psutil.Process(child.pid).create_time()).is_alive()
    child.wait()


def test_a_reused_pid_is_somebody_else() -> None:
    me = ProcessIdentity.of(os.getpid())
    assert me and me.is_alive()
    assert not ProcessIdentity(me.pid, me.started - 3600).is_alive(working_on="20260101-000000-run")


@pytest.mark.parametrize("data", [None, {}, {"pid": "x", "started": 1}, {"pid": 1}, {"pid": None, "started": None}])
def test_a_process_file_without_sense_names_nobody(data: dict[str, object] | None) -> None:
    assert ProcessIdentity.from_json(data) is None


def test_after_the_clock_was_set_the_command_line_tells_who_it_is(home: StudioHome) -> None:
    folder = home.runs / "20260101-000000-run"
    child = subprocess.Popen([sys.executable, "-m", "sleeping_child", str(folder)], start_new_session=True)
    try:
        while not psutil.Process(child.pid).cmdline():  # empty for an instant between fork and exec
            time.sleep(0.001)
        moved = ProcessIdentity(child.pid, psutil.Process(child.pid).create_time() + 7200)
        assert moved.is_alive(working_on=folder.name)
        assert not moved.is_alive(working_on="20260101-000000-other")
        assert not moved.is_alive()
        assert find_process(folder.name) == ProcessIdentity.of(child.pid)
        assert find_process("20260101-000000-other") is None
        assert [found.pid for found in find_processes("sleeping_child", str(folder))] == [child.pid]
    finally:
        child.kill()
        child.wait()


def test_a_command_that_only_names_a_run_does_not_work_on_it(home: StudioHome) -> None:
    child = subprocess.Popen([sys.executable, "-m", "sleeping_child", "20260101-000000-run"], start_new_session=True)
    try:
        assert find_process("20260101-000000-run") is None
    finally:
        child.kill()
        child.wait()


def test_ending_a_group_ends_what_the_process_started() -> None:
    code = f"import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); print(c.pid, flush=True); c.wait()"
    child = start(code=code)
    assert child.stdout
    grandchild = ProcessIdentity.of(int(child.stdout.readline()))
    identity = ProcessIdentity.of(child.pid)
    assert identity and grandchild and grandchild.is_alive()
    end_group(identity, grace_s=0)
    assert not identity.is_alive()
    assert wait_for_end(grandchild, 5)
    child.wait()


def test_one_that_ignores_the_polite_request_is_killed() -> None:
    child = start(code=f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); {SLEEP}")
    assert child.stdout and child.stdout.readline()
    identity = ProcessIdentity.of(child.pid)
    assert identity
    end_group(identity, grace_s=0.1)
    assert not identity.is_alive()
    assert child.wait() == -9


def test_a_stranger_with_the_same_pid_is_left_alone() -> None:
    child = start()
    try:
        end_group(ProcessIdentity(child.pid, psutil.Process(child.pid).create_time() - 500), grace_s=0)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
