"""Look closer: a text's tokens coloured by what a pane changes, divergence by position, perplexities; and a file of prompts."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from studio.core.errors import PlayError
from studio.core.units import show_percent
from studio.ui import markup
from studio.ui.code_view import show_text
from studio.ui.conversation import BASE, Conversation, Pane
from studio.ui.guard import guarded
from studio.ui.play_ask import Ask, answer_turn, refuse_while_training
from studio.ui.play_form import PlayForm
from studio.ui.studio import Studio

FULL_COLOUR_NATS = 3.0
"""A difference as large as this has the strongest colour."""
MOST_PROMPTS = 500
PROMPT_COLUMNS = ("prompt", "instruction", "question", "input", "text")


def wire(studio: Studio, form: PlayForm) -> None:
    tools = form.tools

    def look(values: dict[Any, Any]) -> str:
        refuse_while_training(studio)
        sources = form.sources(studio.home, values)
        conversation = Conversation.from_json(values[form.kept])
        if not conversation.turns:
            raise PlayError("Nothing has been asked yet.", "Ask a question; then its answers can be looked at.")
        last = conversation.turns[-1]
        pane = next((pane.id for pane in sources.panes if pane.id != BASE and pane.id in last.answers), BASE)
        text = values[tools.text] or last.answers.get(pane, {}).get("text", "")
        messages = conversation.before(len(conversation.turns) - 1).messages(BASE, last.user)
        looked = studio.play_room.call(
            "inspect", messages=messages, text=text, panes=[pane.id for pane in sources.panes], strength=values[form.strength],
            load=sources.load,
        )  # fmt: skip
        return closer_html(looked, sources.panes)

    def answer_file(path: str, values: dict[Any, Any], request: gr.Request) -> Iterator[tuple[Any, Any]]:
        yield from _answer_file(studio, form, path, values, str(request.session_hash))

    def bring(values: dict[Any, Any], request: gr.Request) -> Iterator[tuple[Any, Any]]:
        yield from answer_file(values[tools.file], values, request)

    tools.look.click(guarded(look), {*form.inputs, tools.text}, tools.closer, concurrency_limit=4, concurrency_id="closer")
    tools.file.upload(guarded(bring), {*form.inputs, tools.file}, [tools.table, tools.csv], concurrency_limit=8, concurrency_id="file")


def closer_html(looked: Mapping[str, Any], panes: Sequence[Pane]) -> str:
    """One block for each other pane against the base; for the base alone, its own probabilities."""
    perplexity = looked["perplexity"]
    figures = markup.stats(markup.stat(f"perplexity, {pane.title}", f"{perplexity[pane.id]:.2f}") for pane in panes)
    blocks = [_pane_html(looked["tokens"], pane) for pane in panes if pane.id != BASE]
    if not blocks:
        text = "Pick an adapter, or a quantized copy, to see what it changes; alone there are only the base's own probabilities."
        blocks = [markup.notice(text, "info")]
        blocks.append(f'<div class="closer" tabindex="0">{"".join(_token_html(token, BASE) for token in looked["tokens"])}</div>')
    return figures + "".join(blocks)


def _pane_html(tokens: Sequence[Mapping[str, Any]], pane: Pane) -> str:
    body = "".join(_token_html(token, pane.id) for token in tokens)
    parts = next((place for place, token in enumerate(tokens) if _parts(token, pane.id)), None)
    where = (
        "Greedy answers do not part here."
        if parts is None
        else f"Underlined: where the likeliest token differs, first at token {parts + 1}."
    )
    legend = (
        f'<div class="legend-closer"><span style="{_colour(FULL_COLOUR_NATS)}">likelier with {show_text(pane.title)}</span>'
        f'<span style="{_colour(-FULL_COLOUR_NATS)}">likelier with the base</span>{where} Hover over a token for the alternatives.</div>'
    )
    divergences = [token["panes"][pane.id]["kl"] for token in tokens]
    return f'{legend}<div class="closer" tabindex="0">{body}</div>{_divergence_html(divergences, pane.title)}'


def _parts(token: Mapping[str, Any], pane: str) -> bool:
    return token["panes"][pane]["top"][0][0] != token["panes"][BASE]["top"][0][0]


def _token_html(token: Mapping[str, Any], pane: str) -> str:
    base, other = token["panes"][BASE], token["panes"][pane]
    lines = [f"log-probability: base {base['logprob']:.2f}" + (f", beside it {other['logprob']:.2f}" if pane != BASE else "")]
    for name, side in (("base", base), *((("beside it", other),) if pane != BASE else ())):
        lines.append(f"{name}: " + ", ".join(f"{text!r} {show_percent(share)}" for text, share in side["top"]))
    mark = ' class="parts"' if pane != BASE and _parts(token, pane) else ""
    style = _colour(other["logprob"] - base["logprob"])
    return f'<span{mark} style="{style}" title="{markup.escape(chr(10).join(lines))}">{show_text(token["text"])}</span>'


def _colour(difference: float) -> str:
    """Orange where the adapter makes it likelier, blue where less likely; stronger with the difference in nats."""
    share = min(abs(difference) / FULL_COLOUR_NATS, 1.0) * 55
    return f"background: color-mix(in srgb, var(--{'trained' if difference > 0 else 'frozen'}) {share:.0f}%, transparent)"


def _divergence_html(values: Sequence[float], title: str) -> str:
    top = max([*values, 1e-9])
    bars = "".join(
        f'<i style="height:{100 * value / top:.1f}%" title="token {place + 1}: {value:.3f} nats"></i>' for place, value in enumerate(values)
    )
    mean = sum(values) / len(values)
    text = f"KL({title} ‖ base) by position: mean {mean:.3f} nats, largest {top:.3f}."
    return f'<div class="kl" role="img" aria-label="{markup.escape(text)}">{bars}</div><p class="how">{show_text(text)}</p>'


def read_prompts(path: Path) -> list[str]:
    """Prompts of a text file (one a line), JSON lines or a JSON list (texts, or objects with a prompt), or CSV with a prompt column.

    Raises PlayError naming the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PlayError(f"{path.name} is not UTF-8 text.", "Save it as UTF-8.") from error
    if path.suffix.lower() == ".csv":
        found = [_prompt_of(row, f"row {number}") for number, row in enumerate(csv.DictReader(io.StringIO(text)), 1)]
    elif path.suffix.lower() in (".json", ".jsonl"):
        found = _json_prompts(text)
    else:
        found = [line.strip() for line in text.splitlines()]
    prompts = [prompt for prompt in found if prompt.strip()]
    if not prompts:
        raise PlayError(f"{path.name} holds no prompts.", "One prompt a line, or a column named prompt.")
    if len(prompts) > MOST_PROMPTS:
        raise PlayError(f"{path.name} holds {len(prompts):,} prompts.", f"Bring {MOST_PROMPTS} at most.")
    return prompts


def _json_prompts(text: str) -> list[str]:
    if text.lstrip().startswith("["):
        try:
            return [_prompt_of(item, f"entry {number}") for number, item in enumerate(json.loads(text), 1)]
        except ValueError as error:
            raise PlayError("The file holds no JSON.", str(error)) from error
    prompts = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                prompts.append(_prompt_of(json.loads(line), f"line {number}"))
            except ValueError as error:
                raise PlayError(f"Line {number} is no JSON.", "Each line of a .jsonl file is one JSON value.") from error
    return prompts


def _prompt_of(item: Any, where: str) -> str:
    if isinstance(item, str):
        return item
    named = next((item[name] for name in PROMPT_COLUMNS if isinstance(item, dict) and isinstance(item.get(name), str)), None)
    if named is None:
        raise PlayError(f"There is no prompt in {where}.", f"Name the column one of {', '.join(PROMPT_COLUMNS)}.")
    return named


def _answer_file(studio: Studio, form: PlayForm, path: str, values: dict[Any, Any], session: str) -> Iterator[tuple[Any, Any]]:
    """The table as it grows, each prompt a conversation of its own; at the end the CSV. Stop ends it with what there is."""
    prompts = read_prompts(Path(path))
    sources = form.sources(studio.home, values)
    conversation = Conversation(values[form.system].strip() or sources.system, sources.panes)
    rows: list[list[str]] = []
    for prompt in prompts:
        yield progress_table(sources.panes, rows, len(prompts)), gr.File(visible=False)
        ask = Ask(prompt, conversation, sources, form.sampling(values), values[form.strength])
        done = [step.conversation for step in answer_turn(studio, ask, session) if step.conversation is not None]
        if not done:
            break
        answers = done[0].turns[-1].answers
        rows.append([prompt, *(answers[pane.id]["text"] for pane in sources.panes)])
        if any(answer["stopped_by"] == "you" for answer in answers.values()):
            break
    yield progress_table(sources.panes, rows, len(prompts)), gr.File(str(write_table(sources.panes, rows)), visible=True)


def progress_table(panes: Sequence[Pane], rows: Sequence[Sequence[str]], total: int) -> str:
    head = f'<p class="how">{len(rows)} of {total} prompts answered.</p>{markup.progress_bar(len(rows) / total, "prompts answered")}'
    return head + markup.raw_table(["Prompt", *(pane.title for pane in panes)], ([show_text(cell) for cell in row] for row in rows), "rows")


def write_table(panes: Sequence[Pane], rows: Sequence[Sequence[str]]) -> Path:
    """A CSV in a folder of its own. A cell that a spreadsheet would run as a formula gets an apostrophe before it."""
    path = Path(tempfile.mkdtemp(prefix="peft-studio-")) / "answers.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", *(pane.title for pane in panes)])
        writer.writerows([_harmless(cell) for cell in row] for row in rows)
    return path


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
