"""A conversation with several models at once: the same turns for every pane, each pane with its own answers.

Plain values only: it is kept in the browser and in files people exchange, so whatever comes in is checked. It knows nothing of
Gradio and nothing of models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from studio.core.errors import PlayError

BASE = "base"
MOST_CHARACTERS = 4_000_000
MOST_PANES = 5
_HINT = "Import a file that the Playground's Export made."


@dataclass(frozen=True)
class Pane:
    """One column: the name the worker knows it by, and what it is called on the page."""

    id: str
    title: str


@dataclass(frozen=True)
class Turn:
    """What was asked, and what each pane answered: pane id -> the worker's answer ('text', 'tokens', 'seconds', ...).

    `how` is what the worker said of the whole turn: passes, mixed_batch, seed. `runs` holds how each answer's code ended in the sandbox,
    `vote` the person's verdict.
    """

    user: str
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    how: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    vote: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversation:
    """Turns in order, over the panes they were asked of."""

    system: str = ""
    panes: tuple[Pane, ...] = (Pane(BASE, "Base"),)
    turns: tuple[Turn, ...] = ()

    def messages(self, pane: str, user: str) -> list[dict[str, str]]:
        """What `pane` is sent for a new question: system prompt, its own answers so far, the question."""
        found = [{"role": "system", "content": self.system}] if self.system.strip() else []
        for turn in self.turns:
            found.append({"role": "user", "content": turn.user})
            found.append({"role": "assistant", "content": str(turn.answers.get(pane, {}).get("text", ""))})
        return [*found, {"role": "user", "content": user}]

    def before(self, index: int) -> Conversation:
        """The conversation as it was before turn `index`."""
        return replace(self, turns=self.turns[: max(0, index)])

    def with_turn(self, turn: Turn) -> Conversation:
        return replace(self, turns=(*self.turns, turn))

    def with_changed(self, index: int, **changes: Any) -> Conversation:
        """Turn `index` with some of its fields replaced. Raises PlayError where there is no such turn."""
        if not 0 <= index < len(self.turns):
            raise PlayError("That message is no longer there.", "The conversation has changed since; look at the page again.")
        turns = list(self.turns)
        turns[index] = replace(turns[index], **changes)
        return replace(self, turns=tuple(turns))

    def asked_of(self, panes: tuple[Pane, ...], system: str) -> Conversation:
        """The same turns for these panes. Raises PlayError where a pane has no answers of its own to go on from."""
        if self.turns and {pane.id for pane in panes} - {pane.id for pane in self.panes}:
            raise PlayError(
                "This conversation was begun with other adapters.", "Start a new conversation, or pick the ones it was begun with."
            )
        return replace(self, panes=panes, system=system if not self.turns else self.system)

    def to_json(self) -> str:
        return json.dumps({"peft_studio_conversation": 1, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Conversation:
        """What `to_json` wrote; empty text is an empty conversation. Raises PlayError naming what is wrong."""
        if not text:
            return cls()
        if len(text) > MOST_CHARACTERS:
            raise PlayError("This conversation is too long to be read.", _HINT)
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlayError("This file holds no JSON.", _HINT) from error
        if not isinstance(data, dict) or data.get("peft_studio_conversation") != 1:
            raise PlayError("This file holds no conversation of the Playground.", _HINT)
        try:
            panes = tuple(Pane(_text(pane["id"]), _text(pane["title"])) for pane in data["panes"])
            turns = tuple(_turn(turn) for turn in data["turns"])
            made = cls(_text(data["system"]), panes, turns)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise PlayError("This conversation is damaged.", _HINT) from error
        if not 1 <= len(panes) <= MOST_PANES:
            raise PlayError(f"A conversation has 1 to {MOST_PANES} panes; this one has {len(panes)}.", _HINT)
        return made


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _number(value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError(value)
    return number


def _turn(data: dict[str, Any]) -> Turn:
    answers = {}
    for pane, answer in data["answers"].items():
        numbers = {key: _number(answer.get(key) or 0) for key in ("seconds", "first_token_s", "memory_bytes")}
        counts = {key: int(answer.get(key) or 0) for key in ("tokens", "prompt_tokens")}
        answers[_text(pane)] = {"text": _text(answer["text"]), "stopped_by": str(answer.get("stopped_by", "")), **numbers, **counts,
                                "blocks": [_block(block) for block in answer.get("blocks") or []]}  # fmt: skip
    return Turn(_text(data["user"]), answers, _how(data.get("how") or {}), dict(data.get("runs") or {}), dict(data.get("vote") or {}))


_HOW: dict[str, Callable[[Any], Any]] = {
    "passes": lambda value: [[_text(pane) for pane in panes] for panes in value], "order": lambda value: [_text(pane) for pane in value],
    "strengths": lambda value: {_text(pane): _number(strength) for pane, strength in value.items()},
    "copies": lambda value: {_text(pane): _text(held) for pane, held in value.items()}, "prompt_tokens": int, "seed": int,
}  # fmt: skip
"""Of how a turn was answered, what the page reads as more than a text or a yes."""


def _how(data: dict[str, Any]) -> dict[str, Any]:
    return {key: _HOW[key](value) if key in _HOW and value is not None else value for key, value in data.items()}


def _block(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "code": _text(data["code"]), "language": _text(data["language"]), "python": bool(data["python"]),
        "first_line": int(data["first_line"]), "end_line": int(data["end_line"]),
        "formatted": _text(data.get("formatted", "")), "unformatted": _text(data.get("unformatted", "")),
    }  # fmt: skip
