"""Lays a model's Python out as Ruff's formatter does, for reading: the program stays the same, which is checked on its syntax tree.

Ruff runs as a program of its own with a time limit, because what a model wrote may be anything and a nesting deep enough crashes any
formatter. Only what is read is formatted: what is run is the code as it was written.
"""

from __future__ import annotations

import ast
import functools
import subprocess
import warnings
from typing import NamedTuple

from ruff import find_ruff_bin

LINE_LENGTH = 88
TIMEOUT_S = 5.0
LONGEST = 100_000
"""Characters, of what goes in and of what comes out: a few brackets can become thousands of lines."""


class Formatted(NamedTuple):
    """`text` is "" where the code is to be shown as written; `why` says why, "" where it was well formatted already."""

    text: str = ""
    why: str = ""


def format_python(code: str) -> Formatted:
    """`code` formatted. Whatever it is, nothing is raised and nothing is run."""
    try:
        tree = _shape(code)
    except SyntaxError as error:
        return Formatted(why=f"It does not parse as Python (line {error.lineno or 1}: {error.msg}).")
    except (ValueError, MemoryError, RecursionError):
        return Formatted(why="It does not parse as Python.")
    text = _run_ruff(code) if len(code) <= LONGEST else None
    try:
        is_same = text is not None and len(text) <= LONGEST and _shape(text) == tree
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        is_same = False
    if text is None or not is_same:
        return Formatted(why="The formatter gave up on it.")
    text = text.rstrip("\n")
    return Formatted("" if text == code.rstrip() else text)


def _run_ruff(code: str) -> str | None:
    """What Ruff makes of it by its own rules, whatever configuration lies about; None where it fails."""
    command = [_ruff(), "format", "--isolated", "--no-cache", "--line-length", str(LINE_LENGTH), "--stdin-filename", "answer.py", "-"]
    try:
        done = subprocess.run(command, input=code.encode(), capture_output=True, timeout=TIMEOUT_S, check=True)
        return done.stdout.decode()
    except (OSError, UnicodeError, subprocess.SubprocessError):
        return None


@functools.cache
def _ruff() -> str:
    return find_ruff_bin()


def _shape(code: str) -> str:
    """The program as its syntax tree, docstrings without their indentation, which a formatter may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                first.value.value = " ".join(first.value.value.split())
    return ast.dump(tree)
