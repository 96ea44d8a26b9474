"""What one run in the sandbox tells: the ways a program ends, and the person's tests."""

from __future__ import annotations

import pytest

from studio.core.errors import SandboxError
from studio.play.sandbox import SandboxLimits, run_code, sandbox_status


def test_a_sandbox_is_here() -> None:
    status = sandbox_status()
    assert status.available, f"{status.reason} {status.hint}"


def test_a_program_that_ends_normally() -> None:
    result = run_code("print(input()[::-1])\nimport sys; print('note', file=sys.stderr)", stdin="abc\n")
    assert (result.reason, result.exit_code, result.signal, result.ok) == ("ok", 0, None, True)
    assert (result.stdout, result.stderr, result.exception) == ("cba\n", "note\n", "")
    assert 5 * 2**20 < result.peak_memory_bytes < 100 * 2**20
    assert result.wall_s > 0 and 0 < result.cpu_s < 5


def test_an_exception_shows_the_programs_own_frames_only() -> None:
    result = run_code("def half(x):\n    return x / 0\nhalf(1)")
    assert (result.reason, result.exit_code, result.exception) == ("exception", 1, "ZeroDivisionError: division by zero")
    assert result.stderr.startswith('Traceback (most recent call last):\n  File "program.py", line 3, in <module>\n    half(1)\n')
    assert "sandbox_runner" not in result.stderr and "exec(" not in result.stderr


@pytest.mark.parametrize("source", ["def f(:\n", "x = '\ud800'", "a\0b", "(" * 5000, "\n  x = 1", "é = 'ü'; raise ValueError('😀')"])
def test_source_that_does_not_compile_or_is_odd_is_an_exception(source: str) -> None:
    result = run_code(source)
    assert (result.reason, result.exit_code) == ("exception", 1)
    assert result.exception


@pytest.mark.parametrize(
    ("source", "reason", "exit_code", "signal"),
    [
        ("import sys; sys.exit(3)", "exit", 3, None),
        ("import sys; sys.exit('no')", "exit", 1, None),
        ("import os; os._exit(0)", "ok", 0, None),
        ("import os; os.abort()", "signal", None, "SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "signal", None, "SIGTERM"),
        ("raise KeyboardInterrupt", "exception", 1, None),
        ("x = bytearray(2_000_000_000)", "out of memory", 1, None),
    ],
)
def test_other_endings(source: str, reason: str, exit_code: int | None, signal: str | None) -> None:
    result = run_code(source)
    assert (result.reason, result.exit_code, result.signal) == (reason, exit_code, signal)
    assert result.summary.startswith("The program ")


def test_wall_clock_and_cpu_time_are_bounded_apart() -> None:
    asleep = run_code("import time; time.sleep(60)", limits=SandboxLimits(wall_s=0.4))
    busy = run_code("while True: pass", limits=SandboxLimits(wall_s=20, cpu_s=1))
    assert asleep.reason == busy.reason == "timed out"
    assert asleep.cpu_s < 0.3 and asleep.wall_s < 5
    assert (busy.signal, round(busy.cpu_s)) == ("SIGXCPU", 1)


def test_output_is_cut_at_its_limit() -> None:
    result = run_code("while True: print('x' * 999)", limits=SandboxLimits(output_bytes=10_000))
    assert result.reason == "output limit"
    assert len(result.stdout) == 10_000 and result.stdout.startswith("x" * 999 + "\n")


def test_asserts_calls_and_functions_are_tests() -> None:
    tests = "import math\nassert double(2) == 4\nassert double(3) == 5, 'odd'\ndef test_zero():\n    assert double(0) == 0\ndouble()\n"
    result = run_code("def double(x):\n    return 2 * x", tests=tests)
    assert [(test.name, test.passed) for test in result.tests] == [
        ("assert double(2) == 4", True), ("assert double(3) == 5, 'odd'", False), ("test_zero", True), ("double()", False),
    ]  # fmt: skip
    assert result.tests[1].message == "double(3) is 6; expected == 5"
    assert result.tests[3].message.startswith("TypeError: double() missing")
    assert result.reason == "ok" and not result.ok
    assert "2 of 4 tests passed" in result.summary


def test_doctest_lines_are_tests() -> None:
    result = run_code("def double(x):\n    return 2 * x", tests=">>> y = double(4)\n>>> y\n8\n>>> double(1)\n3\n")
    assert [(test.name, test.passed) for test in result.tests] == [("y", True), ("double(1)", False)]
    assert "Expected:\n    3\nGot:\n    2" in result.tests[1].message


@pytest.mark.parametrize("source", ["import os; os._exit(0)", "import sys; sys.exit(1)", "1/0", "import os; os.kill(os.getpid(), 9)"])
def test_tests_that_never_ran_did_not_pass(source: str) -> None:
    result = run_code(source, tests="assert True\nassert 1 + 1 == 2")
    assert [test.passed for test in result.tests] == [False, False]
    assert not result.ok and "did not run" in result.tests[0].message


def test_sys_exit_of_a_finished_program_does_not_skip_its_tests() -> None:
    result = run_code("import sys\ndef f(): return 1\nif __name__ == '__main__': sys.exit()", tests="assert f() == 1")
    assert result.ok and len(result.tests) == 1


def test_unreadable_tests_fail_with_the_reason() -> None:
    result = run_code("x = 1", tests="assert x ==")
    assert [test.passed for test in result.tests] == [False]
    assert "SyntaxError" in result.tests[0].message


def test_a_test_that_exits_or_breaks_leaves_the_next_one_alone() -> None:
    result = run_code("import sys", tests="sys.exit(0)\nassert [1] == [1]\nraise KeyboardInterrupt\nassert 2 > 1")
    assert [(test.name, test.passed) for test in result.tests] == [
        ("sys.exit(0)", False), ("assert [1] == [1]", True), ("preparation", False), ("assert 2 > 1", True),
    ]  # fmt: skip


def test_limits_must_be_positive() -> None:
    with pytest.raises(SandboxError, match=r"wall_s is 0.*memory_bytes is -1"):
        SandboxLimits(wall_s=0, memory_bytes=-1)
