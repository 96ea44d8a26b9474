"""Finds the code in a model's answer, and compares the code of two answers line by line.

Pure functions over text. It knows fenced blocks (``` and ~~~, also one left open where the answer was cut off), code without any
fence that parses as Python, and blocks indented by four spaces; it does not guess at languages and it runs nothing.

Source for fences and indented blocks: the CommonMark specification, sections 4.4 and 4.5, of which lists and quotes are left out.
"""

from __future__ import annotations

import ast
import difflib
import re
import textwrap
import warnings
from dataclasses import dataclass
from typing import Literal

_OPENING = re.compile(r"^( {0,3})(`{3,}|~{3,})[ \t]*([^\n]*?)[ \t]*$")
_PYTHON = frozenset({"python", "python3", "py", "py3", "pycon", "ipython"})
# more than a model answers with, and enough nesting to make the parser give up before it harms anything
_LONGEST_PARSED = 100_000
_TAB_SPACES = 4

BlockKind = Literal["fenced", "unclosed", "whole", "indented"]
DiffKind = Literal["same", "removed", "added"]


@dataclass(frozen=True)
class CodeBlock:
    """One block: its code, the language named on its fence in small letters ("" where none), and its lines in the answer, from 0.

    `first_line` is the first line of the code, `end_line` the one after its last.
    """

    code: str
    language: str
    kind: BlockKind
    first_line: int
    end_line: int

    @property
    def is_python(self) -> bool:
        """Named Python, or not named and readable as Python."""
        return self.language in _PYTHON or (not self.language and parses_as_python(self.code))


@dataclass(frozen=True)
class DiffLine:
    """One line of a comparison. The numbers count from 1 in the first and the second text; None where the line is not in that text."""

    kind: DiffKind
    text: str
    first_number: int | None
    second_number: int | None


def parses_as_python(code: str) -> bool:
    """Whether Python's own parser reads it. Nothing is run. Longer than 100,000 characters counts as no."""
    if not code.strip() or len(code) > _LONGEST_PARSED:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(code)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True


def split_lines(text: str) -> list[str]:
    """Lines without their ends; only newlines end a line, so that form feeds and separators inside a string stay where they are."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _language(info: str) -> str:
    words = re.split(r"[\s,{}:]+", info.strip().lower())
    return next((word.lstrip(".") for word in words if word.lstrip(".")), "")


def _opening(line: str) -> tuple[int, str, str] | None:
    """(indentation, fence, info string) of a line that opens a block; a backtick after a backtick fence makes it inline code."""
    found = _OPENING.match(line)
    if found is None or (found[2][0] == "`" and "`" in found[3]):
        return None
    return len(found[1]), found[2], found[3]


def _closes(line: str, fence: str) -> bool:
    stripped = line.strip()
    indentation = len(line) - len(line.lstrip(" "))
    return indentation <= 3 and len(stripped) >= len(fence) and set(stripped) == {fence[0]}


def _without_indentation(line: str, width: int) -> str:
    spaces = len(line) - len(line.lstrip(" "))
    return line[min(spaces, width) :]


def _fenced(lines: list[str]) -> list[CodeBlock]:
    blocks = []
    at = 0
    while at < len(lines):
        opening = _opening(lines[at])
        at += 1
        if opening is None:
            continue
        width, fence, info = opening
        end = next((index for index in range(at, len(lines)) if _closes(lines[index], fence)), len(lines))
        code = "\n".join(_without_indentation(line, width) for line in lines[at:end])
        kind: BlockKind = "fenced" if end < len(lines) else "unclosed"
        blocks.append(CodeBlock(code, _language(info), kind, at, end))
        at = end + 1
    return blocks


def _is_indented(line: str) -> bool:
    return line.startswith((" " * _TAB_SPACES, "\t")) and bool(line.strip())


def _indented(lines: list[str]) -> list[CodeBlock]:
    """Runs of lines indented by four spaces or a tab, after a blank line or the start; blank lines inside belong to them."""
    blocks = []
    at = 0
    while at < len(lines):
        if not _is_indented(lines[at]) or (at > 0 and lines[at - 1].strip()):
            at += 1
            continue
        end = at
        while end < len(lines) and (_is_indented(lines[end]) or not lines[end].strip()):
            end += 1
        while not lines[end - 1].strip():
            end -= 1
        code = textwrap.dedent("\n".join(line.expandtabs(_TAB_SPACES) for line in lines[at:end]))
        blocks.append(CodeBlock(code, "", "indented", at, end))
        at = end
    return blocks


def _states_nothing(statement: ast.stmt) -> bool:
    """True of what prose parses as: a bare value ("yes", "not sure"), "Answer: yes", or a keyword with a word ("raise taxes")."""
    values = (ast.Name, ast.Constant, ast.Tuple, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.IfExp)
    keywords = (ast.Pass, ast.Break, ast.Continue, ast.Return, ast.Raise, ast.Assert, ast.Delete, ast.Global, ast.Nonlocal)
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, values)
    if isinstance(statement, ast.AnnAssign):
        return statement.value is None
    return isinstance(statement, keywords)


def _is_code_not_prose(answer: str) -> bool:
    if not parses_as_python(answer):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        statements = ast.parse(answer).body
    return not all(_states_nothing(statement) for statement in statements)


def find_code(answer: str) -> list[CodeBlock]:
    """The blocks of code in an answer, in order: the fenced ones, else the whole answer where it is Python, else the indented ones."""
    lines = split_lines(answer)
    blocks = [block for block in _fenced(lines) if block.code.strip()]
    if blocks:
        return blocks
    text = "\n".join(lines)
    whole = textwrap.dedent(text)
    if _is_code_not_prose(whole):
        return [CodeBlock(whole, "python", "whole", 0, len(lines))]
    return _indented(lines)


def choose_code(answer: str) -> str:
    """The program of an answer: all of its Python blocks one after another, as a reader would type them in; "" where there is none."""
    return "\n\n".join(block.code for block in find_code(answer) if block.is_python)


def line_diff(first: str, second: str) -> list[DiffLine]:
    """Every line of both texts in one list: what they share once, what only one has as removed (first) or added (second)."""
    before, after = split_lines(first), split_lines(second)
    found: list[DiffLine] = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            found += [DiffLine("same", before[i], i + 1, i - i1 + j1 + 1) for i in range(i1, i2)]
        else:
            found += [DiffLine("removed", before[i], i + 1, None) for i in range(i1, i2)]
            found += [DiffLine("added", after[j], None, j + 1) for j in range(j1, j2)]
    return found
