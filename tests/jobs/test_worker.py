"""studio.jobs.worker and studio.core.protocol together: a small worker in a real process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from studio.core.errors import DataError, OutOfMemory, SpecError, StudioError, WorkerError
from studio.jobs.process import ProcessIdentity, wait_for_end
from studio.jobs.worker import Event, Worker, kill_group

ROOT = Path(__file__).resolve().parents[2]
FAKE = '''
import os, subprocess, sys, time
print("a library greets before anything else")
from studio.core.errors import DataError, SpecError
from studio.core.protocol import serve

def count(call):
    for number in range(call.args["to"]):
        if call.cancelled.is_set():
            return {"cancelled_at": number}
        call.emit("number", number)
        time.sleep(call.args.get("pause_s", 0))
    return {"counted": call.args["to"]}

def noisy(call):
    print("printed by Python")
    os.write(1, b"written to descriptor 1\\n")
    subprocess.run([sys.executable, "-c", "print('printed by a child')"])
    return "quiet"

def fail(call):
    raise DataError("The rows are empty.", "Choose others.")

def list_problems(call):
    raise SpecError(["one", "two"])

def bug(call):
    return {}["missing"]

def no_memory(call):
    raise MemoryError

def no_file(call):
    open("/no/such/file")

def end(call):
    print("last words", file=sys.stderr, flush=True)
    os._exit(call.args["code"])

serve({
    "count": count, "noisy": noisy, "fail": fail, "list_problems": list_problems, "bug": bug, "no_memory": no_memory, "no_file": no_file,
    "end": end, "echo": lambda call: call.args, "pid": lambda call: os.getpid(), "deaf": lambda call: time.sleep(600),
})
'''


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    (tmp_path / "fake_worker.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path)]))
    worker = Worker("fake_worker", tmp_path / "logs" / "worker.log")
    yield worker
    worker.close(grace_s=0.2)


def test_a_call_starts_the_worker_and_brings_its_answer(worker: Worker) -> None:
    assert worker.pid is None
    assert worker.call("echo", text="Zeile\n✓", number=1.5, nothing=None) == {"text": "Zeile\n✓", "number": 1.5, "nothing": None}


def test_half_a_character_passes_the_protocol(worker: Worker) -> None:
    assert worker.call("echo", text="\ud800") == {"text": "\ud800"}
    assert worker.pid == worker.call("pid")


def test_events_come_in_order_and_the_end_comes_last(worker: Worker) -> None:
    assert list(worker.stream("count", to=3)) == [Event("number", 0), Event("number", 1), Event("number", 2), Event("done", {"counted": 3})]


def test_what_libraries_print_never_reaches_the_protocol(worker: Worker) -> None:
    assert worker.call("noisy") == "quiet"
    log = worker.log.read_text()
    assert all(words in log for words in ("printed by Python", "written to descriptor 1", "printed by a child"))


@pytest.mark.parametrize(
    ("verb", "kind", "words"),
    [
        ("fail", DataError, "The rows are empty. Choose others."),
        ("list_problems", SpecError, "one"),
        ("bug", WorkerError, "KeyError: 'missing'"),
        ("no_memory", OutOfMemory, "not enough memory"),
        ("no_file", StudioError, "No such file"),
        ("frobnicate", WorkerError, "no verb 'frobnicate'"),
    ],
)
def test_an_error_comes_back_as_itself_and_the_worker_lives(worker: Worker, verb: str, kind: type[StudioError], words: str) -> None:
    before = worker.call("pid")
    with pytest.raises(kind, match=words) as caught:
        worker.call(verb)
    assert type(caught.value) is kind
    if isinstance(caught.value, SpecError):
        assert caught.value.problems == ["one", "two"]
    assert worker.call("pid") == before


def test_leaving_a_stream_early_cancels_it(worker: Worker) -> None:
    stream = worker.stream("count", to=1_000_000, pause_s=0.001)
    assert next(stream) == Event("number", 0)
    stream.close()
    assert worker.call("echo", after=1) == {"after": 1}  # it would wait for the count otherwise


def test_calls_from_many_threads_get_their_own_answers(worker: Worker) -> None:
    answers: dict[int, object] = {}

    def ask(number: int) -> None:
        answers[number] = [event.data for event in worker.stream("count", to=number)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == {number: [*range(number), {"counted": number}] for number in range(1, 21)}


def test_a_worker_that_died_says_how_and_the_next_call_starts_another(worker: Worker) -> None:
    first = worker.call("pid")
    with pytest.raises(WorkerError, match="exit code 3") as caught:
        worker.call("end", code=3)
    assert "last words" in caught.value.hint
    assert worker.call("pid") != first


@pytest.mark.parametrize(("number", "words"), [(signal.SIGKILL, "ran out of memory"), (signal.SIGTERM, "free its memory")])
def test_a_worker_that_was_killed_in_the_middle_fails_that_call(worker: Worker, number: int, words: str) -> None:
    stream = worker.stream("count", to=1_000_000, pause_s=0.001)
    next(stream)
    assert worker.pid
    os.kill(worker.pid, number)
    with pytest.raises(WorkerError, match=words):
        list(stream)


def test_no_call_waits_for_a_worker_that_dies_under_it(worker: Worker) -> None:
    """The process may die at any moment between being found alive and being asked."""
    for attempt in range(15):
        pid = worker.pid
        while pid is None:
            with contextlib.suppress(WorkerError):  # the one killed last, met while it falls
                pid = worker.call("pid")
        killer = threading.Timer(attempt * 0.0005, kill_group, (pid,))
        killer.start()
        ended = threading.Event()

        def ask(ended: threading.Event = ended) -> None:
            for _ in range(3):
                try:
                    worker.call("echo")
                except WorkerError:
                    break
            ended.set()

        threading.Thread(target=ask, daemon=True).start()
        assert ended.wait(20), f"a call hangs (attempt {attempt})"
        killer.join()


def test_a_module_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="exit code 1") as caught:
        Worker("no_such_worker", tmp_path / "log").call("echo")
    assert "no_such_worker" in caught.value.hint


def test_a_module_that_says_nothing_is_ended_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mute.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = Worker("mute", tmp_path / "log", start_timeout_s=0.5)
    with pytest.raises(WorkerError, match="did not start in time"):
        worker.call("echo")
    assert not [child for child in psutil.Process().children() if "mute" in child.cmdline()]


def test_close_ends_even_one_that_does_not_listen(worker: Worker) -> None:
    pid = worker.call("pid")
    threading.Thread(target=lambda: list(_quietly(worker)), daemon=True).start()
    time.sleep(0.1)
    worker.close(grace_s=0.2)
    assert worker.pid is None and ProcessIdentity.of(pid) is None
    worker.close()
    assert worker.call("echo", again=True) == {"again": True}


def _quietly(worker: Worker) -> Iterator[Event]:
    try:
        yield from worker.stream("deaf")
    except WorkerError:
        return


def test_a_worker_does_not_outlive_its_studio(worker: Worker, tmp_path: Path) -> None:
    log = str(tmp_path / "other.log")
    script = f"import time; from pathlib import Path; from studio.jobs.worker import Worker; w = Worker('fake_worker', Path({log!r})); "
    script += "print(w.call('pid'), flush=True); time.sleep(600)"
    studio = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert studio.stdout
    child = ProcessIdentity.of(int(studio.stdout.readline()))
    assert child and child.is_alive()
    studio.kill()
    studio.wait()
    assert wait_for_end(child, 10)
