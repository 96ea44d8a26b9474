"""Attacks on the reader: whatever a program writes, wherever it writes it, the studio gets a bounded, well-formed result."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from studio.play.sandbox import SandboxLimits, run_code, sandbox_status

FLOODS = {
    "lines": "while True: print('x' * 99)",
    "one write": "import os\nos.write(1, b'x' * (64 << 20))",
    "errors": "import sys\nwhile True: sys.stderr.write('x' * 4096)",
    "traceback": "raise ValueError('x' * 10_000_000)",
    "shell": "import os\nos.execv('/bin/sh', ['sh', '-c', 'while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done'])",
    "zero device": "import shutil, sys\nshutil.copyfileobj(open('/dev/zero', 'rb'), sys.stdout.buffer)",
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods_are_cut(attack, name) -> None:
    result = attack(FLOODS[name], output_bytes=50_000)
    assert result.reason == "output limit"
    assert max(len(result.stdout), len(result.stderr)) == 50_000
    assert len(result.exception) <= 2_000


ODD = {
    "closed stdout": "import sys, os\nsys.stdout.close(); sys.stderr.close()",
    "closed descriptors": "import os\nos.closerange(0, 256)",
    "stdout replaced": "import sys\nsys.stdout = sys.stderr = sys.__stdout__ = None",
    "modules gone": "import sys\nfor name in list(sys.modules):\n    if name != 'sys': sys.modules[name] = None",
    "builtins gone": "import builtins\nfor name in dir(builtins): \n    if name not in ('delattr', 'dir'): delattr(builtins, name)",
    "excepthook": "import sys\nsys.excepthook = lambda *a: 1/0\nraise ValueError",
    "odd exception": "class E(Exception):\n    def __str__(self): raise self\nraise E",
    "exception without a name": "class E(Exception): pass\nE.__name__ = E.__qualname__ = '\\ud800\\0'\nraise E",
    "exit with an odd code": "import sys\nsys.exit(object())",
    "huge exit code": "import sys\nsys.exit(10**30)",
    "trace function": "import sys\nsys.settrace(lambda *a: 1/0)\ndef f(): pass\nf()",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_programs_give_a_result(name) -> None:
    """And so do their tests: one result for each, whatever is left of the interpreter."""
    result = run_code(ODD[name], tests="assert 1 + 1 == 2\nassert 1 == 3", limits=SandboxLimits(wall_s=5))
    assert result.reason in ("ok", "exit", "exception", "signal")
    assert len(result.tests) == 2 and not result.ok
    assert result.tests[1].passed is False


def test_bytes_that_are_no_text_are_shown_as_such(attack) -> None:
    result = attack("import os\nos.write(1, bytes(range(256)) + b'\\x1b[2J\\x00')")
    assert result.reason == "ok"
    assert result.stdout.startswith(bytes(range(128)).decode()) and "�" in result.stdout


FORGED = {
    "wrong types": '{"planned": [1, {}, null], "test": "a", "name": 3, "failure": 4}\\n{"exception": 5}\\n{"test": 0}\\n',
    "no JSON": "\\xff\\x00[[[{{{\\n\\n\\n",
    "deep JSON": "[" * 50_000 + "\\n",
    "numbers": '{"test": 1e999, "exit_code": 77}\\n{"test": NaN}\\n12\\n"x"\\nnull\\n',
    "long": '{"exception": "' + "y" * 40_000 + '"}\\n',
    "many": '{"test": 0, "name": "n", "failure": ""}\\n' * 500,
    "status": '{"exit_code": 5, "signal": "x", "cpu_s": "y", "peak_memory_bytes": []}\\n',
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_report_harms_nobody(name) -> None:
    """The program finds the pipe of the report and writes to it; it may lie about itself, and that is all."""
    line = FORGED[name]
    result = run_code(
        f"import os\nfor fd in range(3, 64):\n    try: os.write(fd, '{line}'.encode('latin-1'))\n    except OSError: pass",
        tests="assert 1 == 2",
    )
    assert result.exit_code == 0 and result.signal is None
    assert 0 < result.cpu_s < 10 and result.peak_memory_bytes > 0
    assert all(isinstance(test.name, str) and isinstance(test.passed, bool) for test in result.tests)
    assert isinstance(result.exception, str) and len(result.exception) <= 2_000


def test_a_flooded_report_is_cut(attack) -> None:
    result = attack(
        "import os\nwhile True:\n    for fd in range(3, 64):\n        try: os.write(fd, b'x' * 65536)\n        except OSError: pass"
    )
    assert result.reason == "output limit"


def test_the_studio_serves_on_while_attacks_run() -> None:
    """Six attacks at once beside honest programs: the honest ones give their answers, and the sandbox is as good as before."""
    attacks = [
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "x = []\nwhile True: x.append(bytes(1 << 20))",
        "while True: print('x')",
    ] * 2
    with ThreadPoolExecutor(len(attacks)) as pool:
        running = [pool.submit(run_code, source, limits=SandboxLimits(wall_s=1.5)) for source in attacks]
        honest = [run_code(f"print(sum(range({n})))") for n in (10, 100, 1000)]
        reasons = [one.result().reason for one in running]
    assert [result.stdout for result in honest] == ["45\n", "4950\n", "499500\n"]
    assert all(reason in ("timed out", "out of memory", "output limit") for reason in reasons), reasons
    assert sandbox_status().available
