"""Self-contained functions in a Python module's source: pure text work on its syntax tree, nothing is imported or run.

A function is taken when all of this holds:
- it stands at the module's top level, is no coroutine, has no `self` or `cls`, and shares no state through `global`;
- every name it uses is its own, a builtin, or comes along: imports from the standard library, constants the module assigns once, and public
  functions of the module are copied in front of it, and theirs in turn. Nothing private is called;
- what results parses and compiles by itself, and loads no global name that it does not define;
- it has MIN_LINES to MAX_LINES lines with all that comes along, its docstring counted as one and blank lines not, none longer than
  MAX_COLUMNS;
- it does something: a body of only `pass`, `...`, or one `raise` is none;
- its docstring's first paragraph is English prose: MIN_PROSE to MAX_PROSE characters, four words or more, no doctest. That paragraph is the
  description. A docstring that speaks of deprecation or unfinished work is refused.

Does not know: whether the function is right, or well described. These are docstrings written for readers of a library.
"""

from __future__ import annotations

import ast
import builtins
import dis
import re
import sys
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

MIN_LINES, MAX_LINES, MAX_COLUMNS = 3, 25, 120
MIN_PROSE, MAX_PROSE = 25, 300
BUILTINS = frozenset(name for name in dir(builtins) if name not in ("_", "copyright", "credits", "license", "exit", "quit"))
TOP_LEVEL_DEF = re.compile(r"^def ", re.MULTILINE)
LOADS = frozenset(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"))
PUBLIC_MODULES = frozenset(name for name in sys.stdlib_module_names if not name.startswith("_"))
REFUSED_WORDS = re.compile(r"\b(deprecated|todo|fixme|xxx|internal use|do not use|not implemented|undocumented)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Function:
    """A self-contained function: its description, its code with all it needs, and the line it stands at."""

    name: str
    description: str
    code: str
    line: int
    body: str
    """The syntax tree of what it does, without its name and docstring: two functions of one body are copies of each other."""


def find_functions(source: str) -> Iterator[Function]:
    """The self-contained functions of a module's source in their order; none where it does not parse."""
    # Parsing is what takes the time, and many modules hold only classes.
    tree = parse_source(source) if TOP_LEVEL_DEF.search(source) else None
    if tree is None:
        return
    module = _Module(source, tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and (function := _take(module, node)):
            yield function


def parse_source(source: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _take(module: _Module, node: ast.FunctionDef) -> Function | None:
    description = describe(ast.get_docstring(node, clean=True) or "")
    # The cheap tests first: most functions of a big package are too long.
    if not description or node.name.startswith("__") or not fits(module.text(node)) or not _does_something(node) or not _is_plain(node):
        return None
    needed = module.closure(node)
    if needed is None:
        return None
    imports = [part for part in needed if isinstance(part, str)]
    blocks = ["\n".join(imports), *(module.text(part) for part in needed if not isinstance(part, str))]
    code = "\n\n".join(filter(None, blocks))
    if not fits(code) or not stands_alone(code):
        return None
    body = ast.dump(ast.Module(node.body[1:], []))
    return Function(node.name, description, code, node.lineno, body)


def fits(code: str) -> bool:
    lines = ["docstring", *(line for line in code.splitlines() if line.strip())]
    return MIN_LINES <= len(lines) <= MAX_LINES and max(map(len, lines)) <= MAX_COLUMNS


def stands_alone(code: str) -> bool:
    """Whether the code compiles by itself and its functions load no global name that it does not define."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = compile(code, "<function>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return global_names(compiled) <= BUILTINS | stored_names(compiled)


def global_names(code: types.CodeType) -> set[str]:
    """Every name the compiled code and the functions inside it look up globally."""
    found = {step.argval for step in dis.get_instructions(code) if step.opname in LOADS}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= global_names(constant)
    return found


def stored_names(code: types.CodeType) -> set[str]:
    """The names the compiled code defines at its top level."""
    return {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_NAME"}


def describe(docstring: str) -> str:
    """The first paragraph of a docstring, on one line; empty where it is no English prose."""
    text = " ".join(re.split(r"\n\s*\n", docstring.strip())[0].split())
    return text if _is_prose(text) and not REFUSED_WORDS.search(docstring) else ""


def _is_prose(text: str) -> bool:
    words = re.findall(r"[A-Za-z]{2,}", text)
    letters = sum(character.isascii() and (character.isalpha() or character.isspace()) for character in text)
    first = re.match(r"[A-Z]", text)
    return (
        MIN_PROSE <= len(text) <= MAX_PROSE
        and len(words) >= 4
        and text.isascii()
        and letters >= 0.7 * len(text)
        and first is not None
        and ">>>" not in text
    )


def _does_something(node: ast.FunctionDef) -> bool:
    return not all(isinstance(step, (ast.Pass, ast.Raise)) or _is_constant(step) for step in node.body[1:])


def _is_constant(step: ast.stmt) -> bool:
    return isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant)


def _is_plain(node: ast.FunctionDef) -> bool:
    """No method in disguise, no state shared through `global`, no import of anything but the standard library."""
    parts = list(ast.walk(node))
    arguments = {part.arg for part in parts if isinstance(part, ast.arg)}
    imports = [part for part in parts if isinstance(part, (ast.Import, ast.ImportFrom))]
    shared = any(isinstance(part, (ast.Global, ast.Nonlocal)) for part in parts)
    return not shared and not arguments & {"self", "cls", "mcs"} and all(map(_is_standard, imports))


def _is_standard(node: ast.Import | ast.ImportFrom) -> bool:
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    roots = {name.split(".")[0] for name in names}
    return roots <= PUBLIC_MODULES and not getattr(node, "level", 0)


class _Module:
    """What a module's top level defines, and how each definition reads by itself."""

    def __init__(self, source: str, tree: ast.Module) -> None:
        # Not splitlines: it also splits at form feeds, which the parser does not count.
        self.lines = source.replace("\r\n", "\n").split("\n")
        self.definitions: dict[str, ast.stmt] = {}
        self.imports: dict[str, str] = {}
        repeated: set[str] = set()
        for node in tree.body:
            for name in self._defined_by(node):
                if name in self.definitions:
                    repeated.add(name)
                self.definitions[name] = node
        for name in repeated | (set(self.definitions) & set(self.imports)):
            # Which of several definitions holds depends on what ran: such a name is left undefined.
            self.definitions.pop(name, None)
            self.imports.pop(name, None)

    def _defined_by(self, node: ast.stmt) -> list[str]:
        if isinstance(node, ast.FunctionDef):
            return [node.name]
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            return [node.targets[0].id]
        if isinstance(node, (ast.Import, ast.ImportFrom)) and _is_standard(node):
            self._note_imports(node)
        return []

    def _note_imports(self, node: ast.Import | ast.ImportFrom) -> None:
        origin = node.module if isinstance(node, ast.ImportFrom) else None
        for alias in node.names:
            root = alias.name.split(".")[0]
            renamed = f" as {alias.asname}" if alias.asname else ""
            if origin:
                self.imports[alias.asname or alias.name] = f"from {origin} import {alias.name}{renamed}"
            else:
                self.imports[alias.asname or root] = f"import {alias.name}{renamed}"

    def closure(self, node: ast.FunctionDef) -> list[ast.stmt | str] | None:
        """All that has to come along, then the function: imports, constants, public functions; None where something cannot."""
        needed: dict[str, ast.stmt | str] = {}
        waiting = sorted(self._free(node))
        while waiting:
            name = waiting.pop()
            if name in needed or name == node.name:
                continue
            part = self.imports.get(name) or self.definitions.get(name)
            if part is None or (isinstance(part, ast.FunctionDef) and (name.startswith("_") or not _is_plain(part))):
                return None
            needed[name] = part
            if isinstance(part, ast.stmt):
                waiting += sorted(self._free(part))
        imports = sorted({part for part in needed.values() if isinstance(part, str)})
        others = sorted((part for part in needed.values() if isinstance(part, ast.stmt)), key=lambda part: part.lineno)
        return [*imports, *others, node]

    def _free(self, node: ast.stmt) -> set[str]:
        """Names the statement takes from outside itself, as the compiler sees it."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                code = compile(ast.Module([node], []), "<part>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return {"a name that nothing defines"}
        return global_names(code) - stored_names(code) - BUILTINS

    def text(self, part: ast.stmt) -> str:
        """The statement's source, a function's without its docstring."""
        decorators = getattr(part, "decorator_list", [])
        first = min([part.lineno, *(item.lineno for item in decorators)])
        lines = self.lines[first - 1 : part.end_lineno]
        if isinstance(part, ast.FunctionDef) and ast.get_docstring(part) is not None and len(part.body) > 1:
            docstring = part.body[0]
            head = self.lines[first - 1 : docstring.lineno - 1]
            lines = _without_blank_end(head) + _without_blank_end(self.lines[docstring.end_lineno : part.end_lineno][::-1])[::-1]
        return "\n".join(lines)


def _without_blank_end(lines: list[str]) -> list[str]:
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines
