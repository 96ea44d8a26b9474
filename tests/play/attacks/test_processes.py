"""Attacks with processes, threads and signals: their number is bounded, by the kernel and by the watcher; killing process 1 ends all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from studio.play import sandbox

BOMBS = {
    "fork": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "fork in the shell": "import os\nos.execv('/bin/sh', ['sh', '-c', 'f() { f | f & }; f; sleep 60'])",
    "spawn itself": "import subprocess, sys\nsource = open('program.py').read()\nwhile True:\n"
    "    try: subprocess.Popen([sys.executable, '-c', source])\n    except OSError: pass",
    "replace itself": "import os, sys\nos.execv(sys.executable, [sys.executable, 'program.py'])",
    "daemons": "import os, time\nwhile True:\n    try:\n        if os.fork() == 0:\n            os.setsid()\n            os.fork()\n"
    "            time.sleep(60)\n    except OSError: pass",
}


def test_bombs_go_off_inside(attack_all) -> None:
    for name, result in attack_all(BOMBS, wall_s=1.5, memory_bytes=512 << 20).items():
        # A shell that is refused a process may give up, and the program has ended then.
        endings = [("timed out", "SIGKILL"), *([("exit", None)] if "shell" in name else [])]
        assert (result.reason, result.signal) in endings, (name, result)


def test_the_number_of_processes_is_bounded(attack) -> None:
    result = attack(
        "import os, time\nn = 0\ntry:\n    while True:\n        if os.fork() == 0: time.sleep(60)\n        n += 1\n"
        "except BlockingIOError as e: print(n, e)",
        processes=10,
        memory_bytes=512 << 20,
    )
    assert result.stdout == "9 [Errno 11] Resource temporarily unavailable\n"  # and the program itself is the tenth


@pytest.fixture
def kernel_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where RLIMIT_NPROC does not bind: it would refuse the 300th process only, so that the watcher's count is what stops a bomb.

    Without any ceiling a bomb may fork thousands before a busy machine lets the watcher look, and the tests share the machine.
    """
    monkeypatch.setattr(sandbox, "process_ceiling", lambda processes: 300)


@pytest.mark.usefixtures("kernel_is_late")
def test_bombs_are_seen_and_stopped_where_the_kernel_is_late(attack) -> None:
    """One after the other: each has the machine to itself, as far as it is let."""
    for name in ("fork", "fork in the shell", "spawn itself", "daemons"):
        result = attack(BOMBS[name], wall_s=20, memory_bytes=8 << 30)
        assert (result.reason, result.signal, result.exit_code) == ("too many processes", "SIGKILL", None), (name, result)


@pytest.mark.usefixtures("kernel_is_late")
def test_others_are_served_while_a_bomb_is_stopped(attack) -> None:
    """An honest program beside it runs to its end: the one that is killed is the bomb."""
    with ThreadPoolExecutor(2) as pool:
        bomb = pool.submit(attack, BOMBS["fork"], wall_s=20, memory_bytes=8 << 30)
        honest = pool.submit(attack, "print(sum(range(100_000)))", wall_s=20)
    assert bomb.result().reason == "too many processes"
    assert (honest.result().reason, honest.result().stdout) == ("ok", "4999950000\n")


@pytest.mark.usefixtures("kernel_is_late")
@pytest.mark.parametrize(("started", "reason"), [(9, "ok"), (10, "too many processes")])
def test_the_watcher_counts_processes_to_the_very_one(attack, started, reason) -> None:
    """The program itself is one of the ten it may have."""
    result = attack(
        f"import os, time\nfor _ in range({started}):\n    if os.fork() == 0: time.sleep(60)\ntime.sleep(0.7)\nos._exit(0)",
        processes=10, memory_bytes=512 << 20,
    )  # fmt: skip
    assert result.reason == reason


@pytest.mark.usefixtures("kernel_is_late")
@pytest.mark.parametrize(("started", "reason"), [(9, "ok"), (10, "too many processes")])
def test_the_watcher_counts_threads_to_the_very_one(attack, started, reason) -> None:
    result = attack(
        f"import os, threading, time\nfor _ in range({started}):\n    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "time.sleep(0.7)\nos._exit(0)",
        processes=10, memory_bytes=512 << 20,
    )  # fmt: skip
    assert result.reason == reason


def test_a_program_at_its_limit_is_not_taken_for_a_bomb(attack) -> None:
    """Processes that come and go at the ceiling, which the kernel holds, are never counted together."""
    result = attack(
        "import os, time\nend = time.time() + 1.5\nwhile time.time() < end:\n    try:\n"
        "        if os.fork() == 0: time.sleep(0.01); os._exit(0)\n    except BlockingIOError: os.wait()\nprint('done')",
        processes=8,
    )
    assert (result.reason, result.stdout) == ("ok", "done\n")


def test_the_number_of_threads_is_bounded(attack) -> None:
    result = attack(
        "import threading, time\nn = 0\ntry:\n    while True:\n"
        "        threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); n += 1\n"
        "except RuntimeError as e: print(n, e)",
        processes=10,
    )
    assert result.stdout == "9 can't start new thread\n"


@pytest.mark.parametrize("end", ["", "os._exit(0)"])
def test_a_daemon_does_not_outlive_the_program(attack, end) -> None:
    """Double fork and a new session; the program is over at once, and the fixture finds nothing alive."""
    result = attack(
        "import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        os.closerange(0, 64)\n        time.sleep(60)\n"
        f"    os._exit(0)\nos.wait()\nprint('gone', flush=True)\n{end}"
    )
    assert (result.reason, result.stdout) == ("ok", "gone\n")
    assert result.wall_s < 5


def test_a_daemon_that_holds_the_output_open_holds_nobody_up(attack) -> None:
    result = attack("import os, time\nif os.fork() == 0:\n    time.sleep(60)\nprint('done')")
    assert (result.reason, result.stdout) == ("ok", "done\n")
    assert result.wall_s < 5


def test_ignored_signals_do_not_help(attack) -> None:
    result = attack(
        "import signal, time\nfor s in signal.valid_signals():\n    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\n"
        "print('deaf', flush=True)\nwhile True: time.sleep(1)",
        wall_s=0.6,
    )
    assert (result.reason, result.signal, result.stdout) == ("timed out", "SIGKILL", "deaf\n")


def test_ignored_cpu_signal_does_not_help(attack) -> None:
    result = attack("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", cpu_s=1, wall_s=20)
    assert (result.reason, result.signal) == ("timed out", "SIGKILL")


@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM", "SIGINT", "SIGSTOP", "SIGHUP", "SIGSEGV"])
def test_the_parent_cannot_be_killed(attack, number) -> None:
    """Process 1 of a namespace takes no signal from inside it, and there is no other parent to be seen."""
    result = attack(f"import os, signal, time\nos.kill(os.getppid(), signal.{number}); time.sleep(0.1); print(os.getppid())")
    assert (result.reason, result.stdout) == ("ok", "1\n")


def test_killing_everything_kills_only_itself(attack) -> None:
    studio = os.getpid()
    result = attack(
        f"import os\nfor pid in (-1, {studio}, os.getppid()):\n    try: os.kill(pid, 9)\n    except ProcessLookupError: print('nobody')"
    )
    assert (result.reason, result.stdout) == ("ok", "nobody\nnobody\n")


def test_processes_of_the_host_are_not_there(attack) -> None:
    result = attack("import os\nprint(sorted(int(name) for name in os.listdir('/proc') if name.isdigit()) == [1, os.getpid()])")
    assert result.stdout == "True\n"


def test_stopping_itself_ends_at_the_clock(attack) -> None:
    result = attack("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", wall_s=0.6)
    assert result.reason == "timed out"


STALLS = {
    "sleep": "import time\ntime.sleep(1e6)",
    "busy loop": "while True: pass",
    "one long C call": "x = 3 ** (10 ** 9)",
    "catastrophic pattern": "import re\nre.match('(a*)*b', 'a' * 40)",
    "waiting for input that never comes": "import os\nr, w = os.pipe()\nos.read(r, 1)",
    "deadlock": "import threading\nl = threading.Lock()\nl.acquire(); l.acquire()",
    "at exit": "import atexit\n@atexit.register\ndef f():\n    while True: pass",
    "a thread that does not end": "import threading, time\nthreading.Thread(target=time.sleep, args=(1e6,)).start()",
    "a finaliser": "class A:\n    def __del__(self):\n        while True: pass\na = A()\ndel a",
}


def test_stalls_end_at_the_clock(attack_all) -> None:
    for name, result in attack_all(STALLS, wall_s=1.0).items():
        assert (result.reason, result.signal, result.exit_code) == ("timed out", "SIGKILL", None), (name, result)


def test_another_program_is_bound_as_well(attack) -> None:
    """A shell started by exec sees the same walls: its id, its process number, no host files, its limits."""
    result = attack("import os\nos.execv('/bin/sh', ['sh', '-c', 'id -u; echo $$; ls /home /root /etc 2>/dev/null; ulimit -n; ulimit -c'])")
    assert result.stdout.split() == ["1000", "2", "64", "0"]
