"""The quality rules of the starter dataset, each by a function it lets through and one it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.data.functions import MAX_LINES, describe, find_functions, stands_alone

DOC = '"""Return twice the number that is given."""'
BODY = f"    {DOC}\n    return 2 * number\n"


def only(source):
    [function] = find_functions(source)
    return function


def names(source):
    return [function.name for function in find_functions(source)]


def test_a_function_comes_without_its_docstring():
    function = only(f"# a comment\n\ndef double(number):\n{BODY}")
    assert function.code == "def double(number):\n    return 2 * number"
    assert (function.name, function.line) == ("double", 3)
    assert function.description == "Return twice the number that is given."


def test_comments_and_blank_lines_inside_stay():
    code = only(f"def double(number):\n\n    {DOC}\n\n    # twice\n    result = 2 * number\n\n    return result\n").code
    assert code == "def double(number):\n    # twice\n    result = 2 * number\n\n    return result"


def test_what_a_function_needs_comes_along():
    source = (
        "import os\nimport re as regex\nfrom math import (\n    pi,\n    sin,\n)\nUNUSED = 3\nFACTOR = 2\n_WORD = regex.compile('a')\n"
        "def helper(number):\n    return FACTOR * number\n"
        f"def double(number):\n    {DOC}\n    return helper(number) * pi, _WORD\n"
    )
    assert only(source).code == (
        "from math import pi\nimport re as regex\n\nFACTOR = 2\n\n_WORD = regex.compile('a')\n\n"
        "def helper(number):\n    return FACTOR * number\n\ndef double(number):\n    return helper(number) * pi, _WORD"
    )


def test_decorators_come_along():
    source = f"import functools\n@functools.lru_cache(maxsize=None)\ndef double(number):\n{BODY}"
    assert only(source).code.startswith("import functools\n\n@functools.lru_cache(maxsize=None)\ndef double")


def test_recursion_nested_functions_and_local_imports_are_self_contained():
    source = (
        f"def count(number):\n    {DOC}\n    import math\n    def step(value):\n        return value - number\n"
        "    return [math.pi for value in range(3) if step(value)] or count(number - 1)\n"
    )
    assert names(source) == ["count"]


def test_lines_are_the_parsers_also_after_a_form_feed():
    assert only(f"x = 1\n\x0c\ndef double(number):\n{BODY}").code == "def double(number):\n    return 2 * number"


@pytest.mark.parametrize(
    ("reason", "source"),
    [
        ("a method", f"class A:\n    def double(self, number):\n        {DOC}\n        return 2 * number\n"),
        ("self", f"def double(self):\n    {DOC}\n    return 2 * self\n"),
        ("cls", f"def double(cls):\n    {DOC}\n    return 2 * cls\n"),
        ("a private helper", f"def _help(number):\n    return 2\ndef double(number):\n    {DOC}\n    return _help(number)\n"),
        (
            "a private helper of a helper",
            f"def _help():\n    return 2\ndef helper():\n    return _help()\ndef double(number):\n    {DOC}\n    return helper()\n",
        ),
        ("a helper with cls", f"def helper(cls):\n    return 2\ndef double(number):\n    {DOC}\n    return helper(number)\n"),
        ("an unknown name", f"def double(number):\n    {DOC}\n    return missing * number\n"),
        ("a class of the module", f"class A:\n    pass\ndef double(number):\n    {DOC}\n    return A()\n"),
        ("an unknown annotation", f"def double(number: Number):\n{BODY}"),
        ("a package that may not be there", f"import numpy\ndef double(number):\n    {DOC}\n    return numpy.array(number)\n"),
        ("the same, inside", f"def double(number):\n    {DOC}\n    import numpy\n    return numpy.array(number)\n"),
        ("a relative import", f"from . import two\ndef double(number):\n    {DOC}\n    return two * number\n"),
        ("the same, inside", f"def double(number):\n    {DOC}\n    from .other import two\n    return two\n"),
        ("a private module", f"import _ast\ndef double(number):\n    {DOC}\n    return _ast\n"),
        (
            "a name defined twice",
            f"try:\n    import math\nexcept ImportError:\n    pass\nX = 1\nX = 2\ndef double(number):\n    {DOC}\n    return X\n",
        ),
        ("a name imported and defined", f"import math\nmath = 1\ndef double(number):\n    {DOC}\n    return math\n"),
        ("shared state", f"COUNT = 0\ndef double(number):\n    {DOC}\n    global COUNT\n    COUNT += 1\n"),
        ("nothing done", f"def double(number):\n    {DOC}\n    pass\n"),
        ("only an error", f"def double(number):\n    {DOC}\n    raise NotImplementedError\n"),
        ("only a docstring", f"def double(number):\n    {DOC}\n"),
        ("no docstring", "def double(number):\n    return 2 * number\n"),
        ("a short docstring", 'def double(number):\n    """Double it."""\n    return 2 * number\n'),
        ("a deprecated one", 'def double(number):\n    """Return twice the number. Deprecated."""\n    return 2 * number\n'),
        ("too many lines", f"def double(number):\n    {DOC}\n" + "    number += 1\n" * (MAX_LINES - 1)),
        ("a long line", f"def double(number):\n    {DOC}\n    return [{', '.join(['number'] * 20)}]\n"),
        ("a coroutine", f"async def double(number):\n{BODY}"),
        ("a special method's name", f"def __getattr__(number):\n{BODY}"),
        ("no Python", "def double(number:\n"),
    ],
)
def test_refused(reason, source):
    assert names(source) == [], reason


def test_length_counts_all_that_comes_along_and_the_docstring_as_one_line():
    longest = f"def double(number):\n    {DOC}\n" + "    number += 1\n\n" * (MAX_LINES - 2)
    assert names(longest) == ["double"]
    assert names("import math\n" + longest.replace("number += 1", "number += math.pi")) == []
    assert names(f"def double(number): return 2 * number\ndef other(number):\n    {DOC}\n    return double(number)\n") == ["other"]


@pytest.mark.parametrize(
    ("docstring", "description"),
    [
        ("Return the sum of the numbers.\n\nMore about it.", "Return the sum of the numbers."),
        ("Return the sum\n    of the numbers.", "Return the sum of the numbers."),
        ("Return the sum of the numbers.\n\n>>> total([1])\n1", "Return the sum of the numbers."),
        ("total(numbers) -> int\n\nReturn the sum of the numbers.", ""),
        (">>> total([1, 2, 3])\n6\n>>> total([4, 5, 6]) # and so on", ""),
        ("Sum it.", ""),
        ("Gibt die Summe der Zahlen zurück, größer als null.", ""),
        ("Return the sum of the numbers. TODO: test it.", ""),
        ("Return " + "the sum of the numbers " * 30, ""),
        ("", ""),
    ],
)
def test_a_description_is_the_first_paragraph_where_it_is_english_prose(docstring, description):
    assert describe(docstring) == description


@given(st.text(max_size=200))
def test_any_text_at_all_is_no_reason_to_fail(text):
    assert isinstance(list(find_functions(text)), list)
    assert len(list(find_functions(f'def double(number):\n    """{text}"""\n    return 2 * number\n'))) <= 1


@pytest.mark.parametrize(
    ("code", "alone"),
    [
        ("def f(x):\n    return x", True),
        ("def f(x):\n    return y", False),
        ("y = 1\ndef f(x):\n    return y", True),
        ("def f(x):\n    return [y for y in x]", True),
        ("def f(x: Missing):\n    return x", False),
        ("def f(x):\n    return lambda: g(x)", False),
        ("def f(x)\n    return x", False),
    ],
)
def test_code_that_stands_alone_defines_every_name_it_loads(code, alone):
    assert stands_alone(code) is alone
