"""Code in answers: what is found, where, and how two answers differ. Laws are checked on generated text."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.play.code import choose_code, find_code, line_diff, parses_as_python, split_lines


def found(answer: str) -> list[tuple[str, str, str]]:
    return [(block.kind, block.language, block.code) for block in find_code(answer)]


def test_fenced_blocks_with_their_language() -> None:
    answer = "Here:\n```python\nx = 1\n```\nand\n~~~ JS title=a\nlet y\n~~~\n"
    assert found(answer) == [("fenced", "python", "x = 1"), ("fenced", "js", "let y")]
    assert [(block.first_line, block.end_line) for block in find_code(answer)] == [(2, 3), (6, 7)]


@pytest.mark.parametrize(
    ("fence", "language"),
    [("```", ""), ("``` py", "py"), ("```Python3", "python3"), ("```{.python}", "python"), ("```{python}", "python"), ("````c++", "c++")],
)
def test_info_strings(fence: str, language: str) -> None:
    assert found(f"{fence}\na b\n{fence[:4].rstrip(' pPc{')}") == [("fenced", language, "a b")]


def test_a_truncated_answer_keeps_what_was_written() -> None:
    assert found("Sure:\n```python\ndef f(x):\n    return x +") == [("unclosed", "python", "def f(x):\n    return x +")]


def test_a_longer_fence_holds_a_shorter_one() -> None:
    assert found("````md\n```python\nx\n```\n````") == [("fenced", "md", "```python\nx\n```")]
    assert found("```\n~~~\n```") == [("fenced", "", "~~~")]


def test_an_indented_fence_loses_its_indentation() -> None:
    assert found("1. So:\n   ```python\n   if x:\n       y()\n   ```") == [("fenced", "python", "if x:\n    y()")]


NO_CODE = ["", "\n\n", "Hello there.", "yes", "42", "a, b", "x + y", "'quoted'", "```python\n```", "Use `x = 1` inline.", "I am\nnot code",
           "Answer: yes", "pass", "not sure", "raise taxes", "global warming", "...", "# only a remark"]  # fmt: skip


@pytest.mark.parametrize("answer", NO_CODE)
def test_no_code(answer: str) -> None:
    assert find_code(answer) == []


@pytest.mark.parametrize("answer", ["def f(x):\n    return x", "    x = 1\n    print(x)", "import os\n", "print('hi')", "\nx = 1\n"])
def test_an_answer_that_is_python_all_through(answer: str) -> None:
    (block,) = find_code(answer)
    assert (block.kind, block.language) == ("whole", "python")
    ast.parse(block.code)


def test_indented_blocks_within_prose() -> None:
    answer = "Try this:\n\n    for i in x:\n        print(i)\n\n    done()\n\nThen:\n\n\tother\n    not after\n"
    assert found(answer) == [("indented", "", "for i in x:\n    print(i)\n\ndone()"), ("indented", "", "other\nnot after")]
    assert found("A list\n    goes on here") == []


def test_choose_code_takes_the_python_and_leaves_the_rest() -> None:
    assert choose_code("```bash\npip install x\n```\n```python\nx = 1\n```\n```\nprint(x)\n```\n```text\n1\n```") == "x = 1\n\nprint(x)"
    assert choose_code("nothing here") == ""


@pytest.mark.parametrize("code", ["(" * 50_000, "x = 1\0", "\ud800 = 1", "def f(:", "-" * 200_000, "", "9" * 10_000])
def test_hostile_source_does_not_parse_and_does_not_raise(code: str) -> None:
    assert parses_as_python(code) is False


def test_a_diff_by_hand() -> None:
    lines = [(line.kind, line.text, line.first_number, line.second_number) for line in line_diff("a\nb\nc", "a\nx\nc\nd\n")]
    assert lines == [("same", "a", 1, 1), ("removed", "b", 2, None), ("added", "x", None, 2), ("same", "c", 3, 3), ("added", "d", None, 4)]


pieces = ["```", "```python", "~~~", "~~~~ x", "    y = 1", "\tz", "text", "", "x = 1", "def f():", "`` ` ``", "  ```"]
markdown = st.lists(st.sampled_from(pieces), max_size=14).map("\n".join)


@given(st.text() | markdown)
def test_blocks_lie_in_the_answer_in_order_without_overlap(answer: str) -> None:
    lines = split_lines(answer)
    end = 0
    for block in find_code(answer):
        assert end <= block.first_line < block.end_line <= len(lines)
        assert block.code.strip()
        assert len(block.code.split("\n")) == block.end_line - block.first_line
        written = "".join("".join(lines[block.first_line : block.end_line]).split())
        assert "".join(block.code.split()) == written
        end = block.end_line


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\r")), st.sampled_from(["", "python", "rust"]))
def test_what_is_fenced_is_found_again(code: str, language: str) -> None:
    """Any code, in a fence longer than any run of backticks in it."""
    fence = "`" * (max((len(run) for run in code.split() if set(run) == {"`"}), default=2) + 1)
    blocks = find_code(f"Look:\n{fence}{language}\n{code}\n{fence}\nDone.")
    assert [(block.kind, block.language, block.code) for block in blocks] == ([("fenced", language, code)] if code.strip() else [])


texts = st.lists(st.sampled_from(["a", "b", "c", "", "  a"]), max_size=12).map(lambda lines: "".join(line + "\n" for line in lines))


@given(texts, texts)
def test_a_diff_holds_both_texts_whole(first: str, second: str) -> None:
    diff = line_diff(first, second)
    assert [line.text for line in diff if line.kind != "added"] == split_lines(first)
    assert [line.text for line in diff if line.kind != "removed"] == split_lines(second)
    assert [line.first_number for line in diff if line.first_number] == list(range(1, len(split_lines(first)) + 1))
    assert [line.second_number for line in diff if line.second_number] == list(range(1, len(split_lines(second)) + 1))
    assert {line.kind for line in line_diff(first, first)} <= {"same"}
