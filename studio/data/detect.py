"""Which form a dataset has and which column plays which part, from its column names and first rows.

Forms and their roles (those in brackets may be missing):
    messages            messages [system]                 a list of turns, {role, content} or ShareGPT's {from, value}
    alpaca              instruction, output [input, system]
    prompt_completion   prompt, completion [system]
    text                text
They are tried in this order. What is detected can be corrected by DataSpec.format and DataSpec.columns.

Does not know: what the texts mean. Two free-text columns of unfamiliar names are not guessed at; the error names the columns there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from studio.core.errors import DataError
from studio.core.files import is_unicode
from studio.core.spec import DataSpec

ROLES: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "alpaca": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
    "text": ("text",),
}
OPTIONAL: dict[str, tuple[str, ...]] = {
    "messages": ("system",),
    "alpaca": ("input", "system"),
    "prompt_completion": ("system",),
    "text": (),
}
NAMES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "chat"),
    "instruction": ("instruction", "instructions", "instruct"),
    "input": ("input", "inputs", "context"),
    "output": ("output", "outputs", "response", "answer", "completion"),
    "prompt": ("prompt", "question", "query", "problem", "docstring", "user", "input", "source"),
    "completion": ("completion", "response", "answer", "solution", "output", "code", "assistant", "target", "chosen"),
    "text": ("text", "content", "document", "body"),
    "system": ("system", "system_prompt"),
}


class Layout(NamedTuple):
    """A form and its columns: role -> column name. `found` are all columns there are."""

    format: str
    columns: dict[str, str]
    found: list[str]


def detect_layout(rows: Sequence[Mapping[str, Any]], spec: DataSpec) -> Layout:
    """The layout of a dataset from its first rows, `spec`'s corrections applied. Raises DataError naming the columns there are."""
    found = list(dict.fromkeys(name for row in rows for name in row))
    if not found:
        raise DataError("The dataset has no rows with columns.", "Choose another file, or check that it is not empty.")
    _check_corrections(spec, found)
    formats = list(ROLES) if spec.format == "auto" else [spec.format]
    for name in formats:
        columns = _match(name, rows, found, spec)
        if columns is not None:
            return Layout(name, columns, found)
    raise _no_layout(spec, found)


def _check_corrections(spec: DataSpec, found: list[str]) -> None:
    unknown_roles = [role for role in spec.columns if role not in NAMES]
    if unknown_roles:
        raise DataError(f"data.columns names no such role: {', '.join(unknown_roles)}.", f"The roles are {', '.join(NAMES)}.")
    missing = [column for column in spec.columns.values() if column not in found]
    if missing:
        raise DataError(f"The dataset has no column {', '.join(missing)}.", f"Its columns are: {', '.join(found)}.")


def _match(name: str, rows: Sequence[Mapping[str, Any]], found: list[str], spec: DataSpec) -> dict[str, str] | None:
    allowed = {*ROLES[name], *OPTIONAL[name]}
    if spec.format == "auto" and not set(spec.columns) <= allowed:
        return None
    columns = {role: column for role, column in spec.columns.items() if role in allowed}
    for role in (*ROLES[name], *OPTIONAL[name]):
        column = columns.get(role) or _by_name(role, found, taken=set(columns.values()))
        if column is not None and (role in columns or _suits(role, _first(rows, column))):
            columns[role] = column
    if name == "text" and "text" not in columns and len(found) == 1 and isinstance(_first(rows, found[0]), str):
        columns["text"] = found[0]
    return columns if all(role in columns for role in ROLES[name]) else None


def _by_name(role: str, found: list[str], taken: set[str]) -> str | None:
    lower = {column.strip().lower(): column for column in reversed(found) if column not in taken}
    return next((lower[name] for name in NAMES[role] if name in lower), None)


def _first(rows: Sequence[Mapping[str, Any]], column: str) -> Any:
    return next((row[column] for row in rows if row.get(column) not in (None, "", [])), None)


def _suits(role: str, value: Any) -> bool:
    """Whether a cell can play the role: messages are turns, prompt and completion may be, the others are texts."""
    if role != "messages":
        return role in ("prompt", "completion") or not isinstance(value, (list, dict))
    turns = parse_turns(value)
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and bool({"role", "from"} & set(turns[0]))


def parse_turns(value: Any) -> Any:
    """A list of turns out of a cell: CSV and some Parquet files hold it as JSON text. Anything else comes back unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            turns = json.loads(value)
            # An escape can leave half of a character, such as U+D800, which no tokenizer takes.
            return value if "\\u" in value and not is_unicode(json.dumps(turns, ensure_ascii=False)) else turns
        except (ValueError, RecursionError):
            return value
    return value


def _no_layout(spec: DataSpec, found: list[str]) -> DataError:
    wanted = "a form the studio knows" if spec.format == "auto" else f"the form {spec.format}"
    needs = "; ".join(f"{name}: {', '.join(ROLES[name])}" for name in (ROLES if spec.format == "auto" else [spec.format]))
    return DataError(
        f"The dataset's columns do not make {wanted}: {', '.join(found)}.",
        f"Say which column plays which part. Needed are {needs}.",
    )
