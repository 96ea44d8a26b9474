"""A row in any of the four forms -> one Example: a conversation or a plain text, as the model is to see it.

Texts are kept exactly as they stand: leading spaces of code mean something. Alpaca's instruction and input become one user turn, a blank
line between them. ShareGPT's names of speakers become roles. Turns after the last answer are left out, nothing would be learnt from them,
and so are answers before the first question: many chat templates refuse a conversation that begins with one.

Does not know: the model, its chat template and tokens (studio.models.chat), nor other rows (load.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import dropwhile, takewhile
from typing import Any

from studio.core.errors import DataError
from studio.data.detect import Layout, parse_turns
from studio.data.read import Row

SPEAKERS = {
    "human": "user", "user": "user", "prompter": "user",
    "gpt": "assistant", "assistant": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "system": "system", "developer": "system", "tool": "tool", "function": "tool", "observation": "tool",
}  # fmt: skip


@dataclass(frozen=True)
class Example:
    """What is trained on: `messages` (role, content) or `text`, never both. `provenance` says where it comes from."""

    messages: list[dict[str, str]] | None = None
    text: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> Any:
        """What makes two examples the same."""
        return self.messages if self.text is None else self.text

    @property
    def place(self) -> str:
        """Where to find it, for an error: 'train.jsonl, line 3', 'row 3' of a hub's table, or a starter function's module and line."""
        where, line = self.provenance.get("file") or self.provenance.get("module"), self.provenance.get("line", "?")
        return f"{where}, line {line}" if where else f"row {line}"


def make_example(row: Row, layout: Layout, system_prompt: str = "") -> Example | None:
    """The example a row holds; None where the row is empty, which means it has nothing to learn. Raises DataError naming the line."""
    given = row.values.get("provenance")
    provenance = dict(given) if isinstance(given, dict) else {"file": row.file, "line": row.line}
    if layout.format == "text":
        text = _text(row, layout, "text")
        return Example(text=text, provenance=provenance) if text.strip() else None
    builders = {"messages": _from_messages, "alpaca": _from_alpaca, "prompt_completion": _from_prompt}
    turns = _clean(builders[layout.format](row, layout))
    system = _text(row, layout, "system") or system_prompt
    if not turns:
        return None
    if system.strip() and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system})
    return Example(messages=turns, provenance=provenance)


def _text(row: Row, layout: Layout, role: str) -> str:
    column = layout.columns.get(role)
    value = None if column is None else row.values.get(column)
    if value is None:
        return ""
    if isinstance(value, (dict, list, bytes)):
        raise DataError(
            f"{row.place}: the column {column} holds a {type(value).__name__} where text is expected.", "Choose another column."
        )
    return str(value)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _from_alpaca(row: Row, layout: Layout) -> list[dict[str, str]]:
    instruction, given, output = (_text(row, layout, role) for role in ("instruction", "input", "output"))
    return [_turn("user", f"{instruction}\n\n{given}" if given.strip() else instruction), _turn("assistant", output)]


def _from_prompt(row: Row, layout: Layout) -> list[dict[str, str]]:
    """Prompt and completion as texts, or each as a list of turns."""
    turns: list[dict[str, str]] = []
    for role, speaker in (("prompt", "user"), ("completion", "assistant")):
        value = row.values.get(layout.columns[role])
        turns += _turns(value, row) if isinstance(value, list) else [_turn(speaker, _text(row, layout, role))]
    return turns


def _from_messages(row: Row, layout: Layout) -> list[dict[str, str]]:
    column = layout.columns["messages"]
    value = parse_turns(row.values.get(column))
    if value is None or value == "":
        return []
    if not isinstance(value, list):
        raise DataError(f"{row.place}: the column {column} holds no list of turns.", "Each turn is an object with role and content.")
    return _turns(value, row)


def _turns(value: list[Any], row: Row) -> list[dict[str, str]]:
    turns = []
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, dict):
            raise DataError(f"{row.place}: turn {number} is no object.", "Each turn is an object with role and content.")
        speaker = turn.get("role", turn.get("from"))
        role = SPEAKERS.get(str(speaker).strip().lower())
        if role is None:
            raise DataError(f"{row.place}: turn {number} is spoken by {speaker!r}.", "The roles are system, user, assistant and tool.")
        turns.append(_turn(role, _content(turn, f"{row.place}: turn {number}")))
    return turns


def _content(turn: dict[str, Any], where: str) -> str:
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    if content is not None and not isinstance(content, str):
        raise DataError(f"{where} holds something other than text.", "The studio trains on text only: no images, no tool calls.")
    return content or ""


def _clean(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    """The turns from the first question to the last answer, system turns before them; nothing where one of these two is missing or blank,
    or another answer is blank."""
    system = list(takewhile(lambda turn: turn["role"] == "system", turns))
    turns = system + list(dropwhile(lambda turn: turn["role"] == "assistant", turns[len(system) :]))
    while turns and turns[-1]["role"] != "assistant":
        turns = turns[:-1]
    spoken = [turn for turn in turns if turn["role"] != "system"]
    if not spoken or not spoken[0]["content"].strip():
        return []
    if not all(turn["content"].strip() for turn in spoken if turn["role"] == "assistant"):
        return []
    return list(turns)
