"""The Playground's conversation as HTML: turns with one column a pane, and what the worker says under each answer.

Buttons carry data-do, data-turn and data-pane; studio.ui.playground listens. Everything written by people or models is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from studio.core.units import show_bytes, show_duration
from studio.ui import markup
from studio.ui.code_view import answer_html, show_text
from studio.ui.conversation import BASE, Conversation, Pane, Turn
from studio.ui.play_ask import Ask, Step, show_held, show_memory

EMPTY = markup.empty("Nothing asked yet", "Pick a base model, adapters beside it if you like, type a prompt and press Answer.")


def thread_html(conversation: Conversation) -> str:
    """Every turn so far."""
    if not conversation.turns:
        return EMPTY
    last = len(conversation.turns) - 1
    turns = (_turn_html(conversation, index, turn, index == last) for index, turn in enumerate(conversation.turns))
    return f'<div class="thread">{"".join(turns)}</div>'


def writing_html(user: str, panes: Sequence[Pane], texts: Mapping[str, str], now: Sequence[str], blind: bool = False) -> str:
    """The turn that is being answered; `now` are the panes of the pass that is running."""
    columns = "".join(
        _article(
            pane, f"<pre>{show_text(texts.get(pane.id, ''))}</pre>", f'<footer class="writing">{_state(pane.id, texts, now)}</footer>',
            _title(pane, index, blind),
        )
        for index, pane in enumerate(panes)
    )  # fmt: skip
    return f'<section class="turn">{_question(user)}<div class="panes" aria-live="off">{columns}</div></section>'


def _state(pane: str, texts: Mapping[str, str], now: Sequence[str]) -> str:
    if pane in now:
        return "writing…" if texts.get(pane) else "reading the prompt…"
    return "done" if texts.get(pane) else "waits for its pass"


def step_html(ask: Ask, step: Step) -> str:
    """A question that is not answered yet, as it stands."""
    if step.ahead:
        return waiting_html(ask.user, step.ahead)
    if step.texts is None:
        return loading_html(ask.user)
    panes = {pane.id: pane for pane in ask.sources.panes}
    shown = [panes[key] for key in ask.order] or list(panes.values())
    return writing_html(ask.user, shown, step.texts, step.now, bool(ask.order))


def waiting_html(user: str, ahead: int) -> str:
    """A question that is not being answered yet."""
    people = "1 question is" if ahead == 1 else f"{ahead} questions are"
    text = f"{people} before yours. It will be answered in turn; Stop takes it back."
    return f'<section class="turn">{_question(user)}{markup.notice(text, "info", f"Number {ahead + 1} in line.")}</section>'


def loading_html(user: str) -> str:
    box = '<div class="progress waiting" role="progressbar" aria-label="Loading the model"><i></i></div>'
    text = '<p class="how">Getting the model ready. The first answer takes a few seconds longer.</p>'
    return f'<section class="turn">{_question(user)}{text}{box}</section>'


def _turn_html(conversation: Conversation, index: int, turn: Turn, is_last: bool) -> str:
    blind = bool(turn.how.get("blind")) and not turn.vote
    order = [pane for key in turn.how.get("order", []) for pane in conversation.panes if pane.id == key] or list(conversation.panes)
    columns = "".join(
        _answer_pane(turn, pane, index, _title(pane, place, blind)) for place, pane in enumerate(order) if pane.id in turn.answers
    )
    tools = _button("edit", "Edit", index) + _button("retry", "Retry", index)
    verdict = _verdict(turn, order, index, blind) if len(turn.answers) > 1 else ""
    how = "" if blind else f'<p class="how">{markup.escape(how_text(turn, conversation))}</p>'
    return f'<section class="turn">{_question(turn.user, tools)}<div class="panes">{columns}</div>{how}{verdict}</section>'


def _question(user: str, tools: str = "") -> str:
    return f'<div class="question"><pre>{show_text(user)}</pre><div class="tools">{tools}</div></div>'


def _title(pane: Pane, place: int, blind: bool) -> str:
    return f"Answer {chr(65 + place)}" if blind else pane.title


def _article(pane: Pane, body: str, foot: str, title: str) -> str:
    kind = "blind" if title.startswith("Answer ") and title != pane.title else ("base" if pane.id.partition(":")[0] == BASE else "adapted")
    return f'<article class="pane {kind}"><h3>{show_text(title)}</h3>{body}{foot}</article>'


def _answer_pane(turn: Turn, pane: Pane, index: int, title: str) -> str:
    answer = turn.answers[pane.id]
    blocks = answer.get("blocks") or []
    body = answer_html(answer["text"], blocks) or '<p class="how">An empty answer.</p>'
    tools = f'<button class="tool" data-do="copy" data-text="{markup.escape(answer["text"])}">Copy</button>'
    if any(block["python"] for block in blocks):
        tools += _button("run", "Run code", index, pane.id)
    ran = turn.runs.get(pane.id)
    figures = "" if title != pane.title else f"<p>{markup.escape(figures_text(answer))}</p>"
    return _article(
        pane,
        f'<div class="answer">{body}</div>',
        f'{_run_html(ran) if ran else ""}<footer>{figures}<div class="tools">{tools}</div></footer>',
        title,
    )


def figures_text(answer: Mapping[str, Any]) -> str:
    """Tokens, pace, times and why it ended."""
    speed = answer["tokens"] / answer["seconds"] if answer["seconds"] else 0.0
    return (
        f"{answer['tokens']:,} tokens · {speed:.1f} tokens/s · first after {answer['first_token_s']:.2f} s · "
        f"{show_duration(answer['seconds'])} · ended by {answer['stopped_by']}"
    )


def how_text(turn: Turn, conversation: Conversation) -> str:
    """How a turn was answered: passes, weights, prompt, seed, strengths; and why not in one batch."""
    how = turn.how
    names = {pane.id: pane.title for pane in conversation.panes}
    seed = f"seed {how.get('seed', 0)}" if how.get("temperature") else "always the likeliest token"
    if len(turn.answers) == 1:
        batch = "Answered"
    elif how.get("mixed_batch"):
        batch = "Answered together in one batch"
    else:
        passes = [" and ".join(names.get(pane, pane) for pane in panes) for panes in how.get("passes", [])]
        batch = f"Answered in {len(passes)} passes ({', then '.join(passes)})"
    changed = [f"{names.get(pane, pane)} at strength {value:g}" for pane, value in (how.get("strengths") or {}).items() if value != 1]
    copies = [show_held(how), *map(str, (how.get("copies") or {}).values())]
    held = "one model" if len(copies) == 1 else f"{len(copies)} copies of the base"
    parts = [f"{batch} by {held} in memory ({', '.join(copies)})", f"prompt {how.get('prompt_tokens', 0):,} tokens", seed, *changed]
    apart = f" {how['apart']}" if how.get("apart") else ""
    return " · ".join(part for part in parts if part) + "." + apart


def _verdict(turn: Turn, order: Sequence[Pane], index: int, blind: bool) -> str:
    if turn.vote:
        winner = next((pane.title for pane in order if pane.id == turn.vote.get("winner")), "")
        text = f"You found {winner} better." if winner else "You found them equally good."
        return f'<p class="verdict"><b>{show_text(text)}</b> {show_text(turn.vote.get("tally", ""))}</p>'
    buttons = "".join(_button("vote", f"{_title(pane, place, blind)} is better", index, pane.id) for place, pane in enumerate(order))
    return f'<div class="verdict"><span>Which is better?</span>{buttons}{_button("vote", "Tie", index)}</div>'


def _button(do: str, label: str, index: int, pane: str = "") -> str:
    return f'<button class="tool" data-do="{do}" data-turn="{index}" data-pane="{markup.escape(pane)}">{show_text(label)}</button>'


def _run_html(ran: Mapping[str, Any]) -> str:
    """How the code of an answer ended in the sandbox."""
    if ran.get("refused"):
        return markup.notice(str(ran["refused"]), "warn", "Not run.")
    kind = "good" if ran.get("ok") else "bad"
    tests = "".join(
        f'<li class="{"good" if test["passed"] else "bad"}">{"✓" if test["passed"] else "✗"} <code>{show_text(str(test["name"]))}</code> '
        f"{show_text(str(test.get('message', '')))}</li>"
        for test in ran.get("tests") or []
    )
    out = "".join(
        f"<details{' open' if opened else ''}><summary>{label}</summary><pre>{show_text(text)}</pre></details>"
        for label, text, opened in (
            ("Output", str(ran.get("stdout", "")), True),
            ("Errors", str(ran.get("exception") or ran.get("stderr") or ""), kind == "bad"),
        )
        if text.strip()
    )
    facts = f"{float(ran.get('wall_s', 0)):.2f} s · {show_bytes(float(ran.get('peak_memory_bytes', 0)))} · in the sandbox"
    return f'<div class="ran {kind}"><b>{show_text(str(ran.get("summary", "")))}</b><ul>{tests}</ul>{out}<small>{facts}</small></div>'


def diff_html(lines: Sequence[Mapping[str, Any]], first: str, second: str) -> str:
    """A line diff: removed is only in `first`, added only in `second`."""
    marks = {"same": " ", "removed": "−", "added": "+"}
    body = "".join(f'<span class="{line["kind"]}">{marks[line["kind"]]} {show_text(line["text"])}</span>' for line in lines)
    changed = sum(line["kind"] != "same" for line in lines)
    text = f"− only in {show_text(first)}, + only in {show_text(second)}: {changed} of {len(lines)} lines differ."
    return f'<p class="how">{text}</p><pre class="diff" tabindex="0">{body}</pre>'


def rendered_html(rendered: Mapping[str, Any]) -> str:
    """The prompt as text, and its tokens with their ids on hover."""
    tokens = "".join(
        f'<span class="{"special" if token["special"] else "plain"}" title="{token["id"]}">{_with_line_ends(token["text"])}</span>'
        for token in rendered["tokens"]
    )
    count, context = len(rendered["tokens"]), rendered["context"]
    return (
        f'<p class="how">{count:,} tokens of the {context:,} the model reads. Hover over a token for its id; special tokens are framed.</p>'
        f'<pre class="prompt-tokens" tabindex="0">{tokens}</pre>'
    )


def _with_line_ends(text: str) -> str:
    return show_text(text).replace("\n", "⏎\n")


def memory_html(loaded: Mapping[str, Any] | None) -> str:
    """What the play worker holds."""
    if not loaded or not loaded.get("loaded"):
        return '<p class="how">No model in memory.</p>'
    warnings = "".join(markup.notice(text, "warn") for text in loaded.get("warnings", []))
    return (
        f'<p class="how">In memory: {markup.escape(show_memory(loaded))}. '
        f"Unloaded after 10 minutes without a question, and before a run trains.</p>{warnings}"
    )
