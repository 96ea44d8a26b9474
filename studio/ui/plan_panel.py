"""The plan as a person reads it: what is trained, what it takes of this machine, how long, and what the other methods would take."""

from __future__ import annotations

from collections.abc import Sequence

from studio.core.units import show_bytes, show_count, show_duration, show_share
from studio.models.comparison import FamilyComparison
from studio.models.plan import Alternative, Plan
from studio.ui import markup
from studio.ui.family_cards import families_html

LEVEL_KINDS = {"fits": "good", "tight": "warn", "too large": "bad"}
LEVEL_WORDS = {"fits": "It fits.", "tight": "It is tight.", "too large": "Too large for this machine."}


UNREAD = "known once the data are read"
"""The time, where neither the number of rows nor that of steps is known."""


def show_time(seconds: float) -> str:
    return show_duration(seconds) if seconds else "–"


def problems_html(problems: list[str]) -> str:
    """Everything that stands in the way, each with its advice."""
    items = "".join(f"<li>{markup.escape(problem)}</li>" for problem in problems)
    return f'<div class="notice bad" role="alert"><b>This cannot run yet</b><ul>{items}</ul></div>'


def plan_html(plan: Plan, families: Sequence[FamilyComparison] = (), data_problem: str = "") -> str:
    """Figures, verdict, memory by part against the device, the other methods at the same settings, and what each of them adds.

    `data_problem` is why the data cannot be used, as they were last looked at: it takes the verdict's place.
    """
    duration = plan.duration
    figures = markup.stats([
        markup.stat("trained", show_count(plan.trainable_parameters),
                    f"{show_share(plan.trainable_parameters, plan.total_parameters)} of {show_count(plan.total_parameters)} parameters"),
        markup.stat("memory at the peak", show_bytes(plan.memory_bytes), f"of {show_bytes(plan.hardware.memory_bytes)}"),
        markup.stat("time, estimated", show_time(duration.seconds), f"{duration.steps:,} steps" if duration.steps else UNREAD),
        markup.stat("adapter on disk", show_bytes(plan.adapter_file_bytes), "in fp32"),
    ])  # fmt: skip
    verdict = markup.notice(plan.verdict.sentence, LEVEL_KINDS[plan.verdict.level], LEVEL_WORDS[plan.verdict.level])
    if data_problem:
        verdict = markup.notice(data_problem, "bad", "The dataset cannot be used like this.")
    advice = "".join(markup.notice(text) for text in plan.advice)
    cards = families_html(families) if families else ""
    return figures + verdict + _memory(plan) + advice + _alternatives(plan) + cards + _assumptions(plan)


def verdict_html(plan: Plan, data_problem: str = "") -> str:
    """The verdict beside the button, in one line."""
    if data_problem:
        return _line("bad", "The dataset cannot be used like this.", [markup.escape(data_problem.partition("\n")[0].rstrip(":"))])
    memory = f"{show_bytes(plan.memory_bytes)}<i> of {show_bytes(plan.hardware.memory_bytes)}</i>"
    time = f"about {show_duration(plan.duration.seconds)}" if plan.duration.steps else f"time: {UNREAD}"
    facts = [memory, time, f"{show_count(plan.trainable_parameters)} trained"]
    return _line(LEVEL_KINDS[plan.verdict.level], LEVEL_WORDS[plan.verdict.level], facts)


def problems_line(problems: list[str]) -> str:
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return _line("bad", "This cannot run yet.", [markup.escape(problems[0] + more)])


def _line(kind: str, title: str, facts: list[str]) -> str:
    shown = "".join(f"<span>{fact}</span>" for fact in facts)
    return f'<p class="verdict-line {kind}" role="status"><b>{markup.escape(title)}</b>{shown}</p>'


def _memory(plan: Plan) -> str:
    parts = [(f"{part.name}: {show_bytes(part.bytes)}. {part.note}", float(part.bytes)) for part in plan.memory]
    limit = float(plan.hardware.memory_bytes)
    marks = [(f"this machine, {show_bytes(limit)}", limit)]
    key = "".join(
        f'<div title="{markup.escape(part.note)}"><i class="part-{index}"></i>'
        f"{markup.escape(part.name)}<b>{show_bytes(part.bytes)}</b></div>"
        for index, part in enumerate(plan.memory)
    )
    return f'{markup.stacked_bar(parts, limit, marks)}<div class="key">{key}</div>'


def _alternatives(plan: Plan) -> str:
    rows = "".join(_alternative(item) for item in plan.alternatives)
    head = "<tr><th>the same run with</th><th>trained</th><th>memory</th><th>time</th></tr>"
    note = f'<p class="how">{markup.escape(plan.alternatives_note)}</p>' if plan.alternatives_note else ""
    return f'<div class="table-wrap"><table class="plain alternatives"><thead>{head}</thead><tbody>{rows}</tbody></table></div>{note}'


def _alternative(item: Alternative) -> str:
    held = "" if item.quantization == "none" else f" <small>on {item.quantization}</small>"
    cells = [
        f"{markup.escape(item.title)}{held}",
        show_count(item.trainable_parameters),
        show_bytes(item.memory_bytes),
        show_time(item.seconds),
    ]
    return f'<tr class="{"chosen" if item.current else ""}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _assumptions(plan: Plan) -> str:
    data = plan.data
    rows = f"{data.rows:,} rows" if data.rows else "rows"
    text = (
        f"Counts are exact. Memory is modelled for {rows} of {data.mean_tokens:.0f} tokens on average ({data.source}). "
        f"Time is {plan.duration.note}."
    )
    return f'<p class="how">{markup.escape(text)}</p>'
