"""The history: every run as a row to press and a box to compare it, found by name, tag, method, model or status. HTML only, no widgets."""

from __future__ import annotations

from collections.abc import Sequence

from studio.core.records import RunStatus
from studio.jobs.store import RunSummary
from studio.ui import markup
from studio.ui.cockpit import FAMILY_TITLES, STATUS_WORDS, chip

PAGE = 40
"""Rows shown before one asks for more: a thousand would be a megabyte at every change."""
MOST_COMPARED = 8
"""As many as there are colours to tell apart."""


def find_runs(runs: Sequence[RunSummary], query: str) -> list[RunSummary]:
    """Runs that hold every word of `query` in id, name, tags, method, model, dataset or status."""
    words = query.lower().split()
    return [run for run in runs if all(word in _haystack(run) for word in words)]


def _haystack(run: RunSummary) -> str:
    parts = (run.id, run.name, *run.tags, run.family, FAMILY_TITLES.get(run.family, ""), run.model, run.dataset, STATUS_WORDS[run.status])
    return " ".join(parts).lower()


def list_html(runs: Sequence[RunSummary], selected: str, compared: Sequence[str] = (), query: str = "", shown: int = PAGE) -> str:
    """The first `shown` of the runs that fit `query`, newest first."""
    if not runs:
        return markup.empty("No runs yet", "Press Train on the Train tab.")
    found = find_runs(runs, query)
    if not found:
        return markup.empty("No run fits", "Search for a name, a tag, a method, a model or a status.")
    rows = "".join(_row(run, run.id == selected and len(compared) < 2, run.id in compared) for run in found[:shown])
    more = f'<button class="more-runs" data-more="1">Show more ({len(found) - shown:,} older)</button>' if len(found) > shown else ""
    return f'{_bar(len(found), compared)}<div class="run-list" role="list">{rows}</div>{more}'


def _bar(count: int, compared: Sequence[str]) -> str:
    runs = f"{count:,} run{'' if count == 1 else 's'}"
    if not compared:
        text = "tick two or more to compare" if count > 1 else ""
        return f'<div class="list-bar"><span>{runs}</span><span>{text}</span></div>'
    text = "one ticked: tick another to compare" if len(compared) == 1 else f"comparing {len(compared)}"
    return f'<div class="list-bar"><span>{text}</span><button data-clear="1">Clear</button></div>'


def _row(run: RunSummary, selected: bool, compared: bool) -> str:
    run_id, name = markup.escape(run.id), markup.escape(run.name)
    facts = " · ".join(filter(None, (FAMILY_TITLES.get(run.family, run.family), f"{run.created:%d %b %H:%M}")))
    tags = "".join(f"<i>{markup.escape(tag)}</i>" for tag in run.tags[:3])
    return (
        f'<div class="run-line{" selected" if selected else ""}{" compared" if compared else ""}" role="listitem">'
        f'<button class="tick" role="checkbox" aria-checked="{str(compared).lower()}" data-compare="{run_id}" aria-label="compare {name}">'
        "</button>"
        f'<button class="run-row" data-run="{run_id}" aria-pressed="{str(selected).lower()}">'
        f'<span><b title="{name}">{name}</b><small>{markup.escape(facts)}</small>{tags}</span>'
        f'<span class="right">{chip(run.status)}<em>{_change(run)}</em></span>{markup.sparkline(run.sparkline, 64, 26)}</button></div>'
    )


def _change(run: RunSummary) -> str:
    """Held-out loss and how far it has come; the share done while it works."""
    if run.total_steps and run.status.is_active:
        return f"{100 * run.steps / run.total_steps:.0f} %"
    if run.eval_loss_before and run.eval_loss_after is not None and run.status is not RunStatus.QUEUED:
        return f"{run.eval_loss_after:.3f} <small>({100 * (run.eval_loss_after / run.eval_loss_before - 1):+.0f} %)</small>"
    return ""


def toggle(compared: str, run_id: str) -> str:
    """The comma-separated ids with `run_id` added or taken away; the earliest gives way to a ninth."""
    ids = read_ids(compared)
    ids = [item for item in ids if item != run_id] if run_id in ids else [*ids, run_id][-MOST_COMPARED:]
    return ",".join(ids)


def read_ids(text: str) -> list[str]:
    return [item for item in text.split(",") if item]
