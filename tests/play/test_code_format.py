"""Formatting: the very same program, laid out by the rules that are published for it; whatever cannot be laid out is left and said so."""

from __future__ import annotations

import ast
import re
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.play import code_format
from studio.play.code_format import format_python


def test_it_is_laid_out_by_pep_8():
    formatted, why = format_python("def f( x,y = 1 ):\n  if x==y :\n      return {'a':1,'b' : [1,2]}\n  return  x+y*2")
    assert why == ""
    assert formatted == 'def f(x, y=1):\n    if x == y:\n        return {"a": 1, "b": [1, 2]}\n    return x + y * 2'


def test_what_is_laid_out_already_is_left_without_a_word():
    assert format_python("def f(x):\n    return x\n") == ("", "")


def test_long_lines_are_broken_and_docstrings_indented():
    formatted, _ = format_python("def f(a):\n  '''Says\n  what.\n  '''\n  return " + " + ".join(["aaaaaaaaaa"] * 12))
    assert max(map(len, formatted.split("\n"))) <= code_format.LINE_LENGTH
    assert formatted.startswith('def f(a):\n    """Says\n    what.\n    """\n')


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("x = 1\ndef f(:", r"does not parse as Python \(line 2: invalid syntax\)"),
        ("print 'hello'", "does not parse"),
        (">>> 1 + 1\n2", "does not parse"),
        ("x = 1\0", "does not parse"),
        ("x = '\ud800'", "does not parse"),
        ("x = " + "-" * 20_000 + "1", "gave up|does not parse"),
        ("x = " + "[" * 90 + "]" * 90 + "\n" + "y = 1\n" * 20_000, "gave up"),
    ],
)
def test_what_cannot_be_laid_out_is_left_and_said_so(code, why):
    formatted = format_python(code)
    assert formatted.text == ""
    assert re.search(why, formatted.why)


@pytest.mark.parametrize("failure", [OSError("gone"), subprocess.TimeoutExpired("ruff", 5), subprocess.CalledProcessError(-6, "ruff")])
def test_a_formatter_that_hangs_crashes_or_is_gone_leaves_the_code(failure, monkeypatch):
    def fail(*args, **options):
        raise failure

    monkeypatch.setattr(code_format.subprocess, "run", fail)
    assert format_python("x=1") == ("", "The formatter gave up on it.")


def test_another_program_is_never_shown(monkeypatch):
    monkeypatch.setattr(code_format, "_run_ruff", lambda code: "x = 2\n")
    assert format_python("x=1") == ("", "The formatter gave up on it.")


names = st.sampled_from(["a", "b", "value"])
atoms = names | st.integers(-9, 9).map(str) | st.sampled_from(["'it\\'s'", '"q"', "f'{a!r:>{b}}'", "None", "b'x'", "1e5", "0XFF"])
operators = st.sampled_from(["+", "==", "and", "if a else", "**", "in", ","])
wrapped = st.sampled_from(["not {}", "[{}  for a in b]", "{{ 'k' :{} }}", "value( *a,k={} )", "({})"])
expressions = st.recursive(
    atoms,
    lambda inner: st.builds("({} {} {})".format, inner, operators, inner) | st.builds(lambda form, text: form.format(text), wrapped, inner),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(expressions, min_size=1, max_size=4))
def test_the_formatted_program_is_the_same_program(lines):
    code = "def value(a , b):\n  " + "\n  ".join(f"b= {line}" for line in lines) + "\n  return  a"
    try:
        tree = ast.dump(ast.parse(code))
    except SyntaxError:
        assert "does not parse" in format_python(code).why
        return
    formatted, why = format_python(code)
    assert why == "" and ast.dump(ast.parse(formatted)) == tree
    assert format_python(formatted) == ("", "")
