"""Process 1 inside the sandbox: sets the limits, runs one program and its tests in a child, reports how that ended.

Never imported by the studio for use: its text is handed to the sandbox's own interpreter, which may be older or newer than the
studio's, so it needs no more than the standard library of Python 3.9. It speaks over two pipes, one JSON object a line: `status`
belongs to process 1 (exit, CPU time, memory), `report` to the program's process (exception, tests). A program that sets out to forge
its report can: it runs in the process that writes it. It cannot forge the status, and nothing it writes can harm the reader.

Arguments: the file descriptors of the job, the status and the report.
"""

from __future__ import annotations

import ast
import ctypes
import doctest
import json
import linecache
import math
import operator
import os
import resource
import signal
import sys
import traceback
import types
from collections.abc import Callable

PROGRAM = "program.py"
FAILURE_CHARS = 500
NAME_CHARS = 120
SPARE_BYTES = 32 * 1024 * 1024
PR_SET_DUMPABLE = 4
COMPARISONS = {ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
               ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not}  # fmt: skip
SYMBOLS = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Is: "is", ast.IsNot: "is not"}


def send(fd: int, message: dict) -> None:
    os.write(fd, json.dumps(message).encode() + b"\n")


def set_limits(limits: dict) -> None:
    """Hard limits of the program's process and all that it starts; there is no way back up."""
    memory, cpu_s = limits["memory_bytes"], math.ceil(limits["cpu_s"])
    pairs = {
        "RLIMIT_AS": (memory, memory + SPARE_BYTES),
        "RLIMIT_CPU": (cpu_s, cpu_s + 1),
        "RLIMIT_FSIZE": (limits["disk_bytes"], limits["disk_bytes"]),
        "RLIMIT_NOFILE": (limits["open_files"], limits["open_files"]),
        "RLIMIT_NPROC": (limits["process_ceiling"], limits["process_ceiling"]),
    }
    for name, pair in pairs.items():
        resource.setrlimit(getattr(resource, name), pair)
    for name in ("RLIMIT_CORE", "RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE"):
        if hasattr(resource, name):
            resource.setrlimit(getattr(resource, name), (0, 0))


def offer_to_the_oom_killer() -> None:
    """A machine that runs out of memory takes this process before any other."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass  # a kernel without it: the limits hold all the same


def give_spare_memory() -> None:
    """The room kept back for telling what happened once the program has used up its own."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


class Test:
    """One check typed by the person: `run(scope)` returns "" when it holds, else why it does not. Set-up steps have no name."""

    def __init__(self, name: str, run: Callable[[dict], str]) -> None:
        self.name, self.run = name[:NAME_CHARS], run


def describe(error: BaseException) -> str:
    text = "".join(traceback.format_exception_only(type(error), error)).strip()
    return text[:FAILURE_CHARS]


def show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "…"


def run_statement(node: ast.stmt, scope: dict) -> str:
    exec(compile(ast.Module([node], []), "tests", "exec"), scope)
    return ""


def run_assert(node: ast.Assert, scope: dict) -> str:
    """Evaluates each side of a comparison once, so that the failure can tell what came out."""
    test = node.test
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and type(test.ops[0]) in COMPARISONS):
        if eval(compile(ast.Expression(test), "tests", "eval"), scope):
            return ""
        return "does not hold"
    left = eval(compile(ast.Expression(test.left), "tests", "eval"), scope)
    right = eval(compile(ast.Expression(test.comparators[0]), "tests", "eval"), scope)
    if COMPARISONS[type(test.ops[0])](left, right):
        return ""
    return f"{ast.unparse(test.left)[:NAME_CHARS]} is {show(left)}; expected {SYMBOLS[type(test.ops[0])]} {show(right)}"


def call_test(name: str, scope: dict) -> str:
    scope[name]()
    return ""


def plan_statements(tests: str) -> list:
    """Asserts, loops and bare calls are tests; imports, assignments and definitions prepare; `def test_...` is called at its place."""
    planned = []
    for node in ast.parse(tests, "tests").body:
        name = (ast.get_source_segment(tests, node) or type(node).__name__).splitlines()[0]
        if isinstance(node, ast.Assert):
            planned.append(Test(name, lambda scope, node=node: run_assert(node, scope)))
        elif isinstance(node, (ast.Expr, ast.For, ast.While, ast.If, ast.With, ast.Try)):
            planned.append(Test(name, lambda scope, node=node: run_statement(node, scope)))
        else:
            planned.append(Test("", lambda scope, node=node: run_statement(node, scope)))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            planned.append(Test(node.name, lambda scope, name=node.name: call_test(name, scope)))
    return planned


def run_example(example: doctest.Example, scope: dict) -> str:
    printed = []
    case = doctest.DocTest([example], {}, "tests", None, None, None)
    case.globs = scope  # given to the constructor it would be copied, and names would not reach the next example
    failed = doctest.DocTestRunner(verbose=False).run(case, out=printed.append, clear_globs=False).failed
    return "".join(printed)[-FAILURE_CHARS:] if failed else ""


def plan_tests(tests: str) -> list:
    if any(line.lstrip().startswith(">>>") for line in tests.splitlines()):
        examples = doctest.DocTestParser().get_examples(tests)
        return [
            Test(example.source.splitlines()[0] if example.want else "", lambda scope, example=example: run_example(example, scope))
            for example in examples
        ]
    return plan_statements(tests)


def run_tests(planned: list, scope: dict, report: int) -> None:
    """Every test runs, whatever happened to the one before; one line of report each."""
    for index, test in enumerate(planned):
        try:
            failure = test.run(scope)
        except BaseException as error:  # noqa: BLE001 - the person's and the program's code: anything may come out of it, sys.exit included
            if isinstance(error, MemoryError):
                give_spare_memory()
            failure = describe(error) or type(error).__name__
        if test.name or failure:
            send(report, {"test": index, "name": test.name or "preparation", "failure": failure})


def report_exception(error: BaseException, report: int | None) -> None:
    """The traceback as Python itself would print it, from the program's first line on."""
    if isinstance(error, MemoryError):
        give_spare_memory()
    if report is not None:
        send(report, {"exception": describe(error)})
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != PROGRAM:
        frames = frames.tb_next
    traceback.print_exception(type(error), error, frames)


def plan_or_report(tests: str, report: int) -> list:
    try:
        planned = plan_tests(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        send(report, {"planned": ["tests"]})
        send(report, {"test": 0, "name": "tests", "failure": "The tests cannot be read. " + describe(error)})
        return []
    send(report, {"planned": [test.name for test in planned]})
    return planned


def run_program(job: dict, report: int) -> None:
    """The program as `__main__`, then its tests in the same names. Ends through SystemExit so that threads and atexit run as usual."""
    planned = plan_or_report(job["tests"], report) if job["tests"].strip() else []
    program = os.getpid()
    source = job["source"]
    with open(PROGRAM, "wb") as file:
        file.write(source.encode("utf-8", "replace"))
    module = types.ModuleType("__main__")
    module.__file__ = os.path.abspath(PROGRAM)
    sys.modules["__main__"], sys.argv = module, [PROGRAM]
    linecache.cache[PROGRAM] = (len(source), None, source.splitlines(True), PROGRAM)
    try:
        exec(compile(source, PROGRAM, "exec", dont_inherit=True), module.__dict__)
    except SystemExit as error:
        if error.code not in (None, 0):
            raise
    except BaseException as error:  # noqa: BLE001 - what the program raises is the answer, not a failure of this file
        report_exception(error, report if os.getpid() == program else None)
        sys.exit(1)
    if os.getpid() == program:  # a process that the program forked may come by here too, and speaks for itself only
        run_tests(planned, module.__dict__, report)


def wait_for(child: int) -> tuple:
    """Reaps whatever dies in here until the program itself does."""
    while True:
        pid, status, usage = os.wait4(-1, 0)
        if pid == child:
            return status, usage


def main() -> None:
    job_fd, status, report = (int(argument) for argument in sys.argv[1:4])
    with open(job_fd, encoding="utf-8") as file:
        job = json.load(file)
    send(status, {"started": True})
    # so that the program cannot look into or write to this process through /proc
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(10)
    child = os.fork()
    if child == 0:
        os.close(status)
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        set_limits(job["limits"])
        offer_to_the_oom_killer()
        run_program(job, report)
        return
    os.close(report)
    code, usage = wait_for(child)
    ended = {"signal": os.WTERMSIG(code)} if os.WIFSIGNALED(code) else {"exit_code": os.WEXITSTATUS(code)}
    send(status, {**ended, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_memory_bytes": usage.ru_maxrss * 1024})


if __name__ == "__main__":
    main()
