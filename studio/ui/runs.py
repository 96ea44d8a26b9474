"""The Runs tab: every run on the left; on the right one run's cockpit, live or long over, or several runs compared.

The page remembers only what is looked at, in hidden boxes. A timer asks the cheapest question there is (sizes and times of files); when
nothing moved it changes nothing. So any number of pages watch the same run, and a reload or a restarted studio shows it again.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from typing import Any, NamedTuple

import gradio as gr

from studio.core.errors import RunError, RunNotFound
from studio.core.paths import RunPaths
from studio.core.records import RunStatus
from studio.jobs import store
from studio.jobs.metrics import metric_table
from studio.jobs.queue import waiting_runs
from studio.plots.compare import compare_figure, compare_info
from studio.plots.loss import loss_figure, loss_info
from studio.plots.pareto import pareto_figure, pareto_info
from studio.plots.vitals import vitals_figure, vitals_info
from studio.ui import cockpit, markup, plot, runs_actions, runs_compare, runs_forms, runs_list
from studio.ui.guard import guarded
from studio.ui.lazy import current_page
from studio.ui.links import Links
from studio.ui.runs_widgets import QUIET, Buttons, Cockpit, Comparison, build_cockpit, build_comparison, build_list
from studio.ui.studio import Studio

POINTS = 1200
VITALS_POINTS = 400
COMPARED_POINTS = 600


class RunsTab(NamedTuple):
    """What other tabs need: the run looked at, and buttons they answer to."""

    selected: gr.Textbox
    again: gr.Button
    play: gr.Button


def build(studio: Studio, links: Links) -> RunsTab:
    with gr.Row(elem_classes="two-columns", equal_height=False):
        with gr.Column(scale=4, min_width=300):
            view, listing, trash = build_list()
        with gr.Column(scale=9, min_width=360):
            with gr.Column() as single:
                (buttons, confirm), shown, forms = build_cockpit()
            with gr.Column(visible=False) as several:
                comparison = build_comparison()
    timer = gr.Timer(1.0)
    inputs = [view.selected, view.compared, view.query, view.rows, view.seen, view.seen_list, shown.smoothing, shown.log_scale,
              comparison.cost]  # fmt: skip
    outputs = [view.seen, view.seen_list, listing, single, several, *buttons, *shown.drawn, *comparison.drawn]

    def refresh(*values: Any) -> list[Any]:
        return draw(studio, Looked(*values))

    def redraw(*values: Any) -> list[Any]:
        return draw(studio, Looked(*values)._replace(seen="", seen_list=""))

    def follow(event: Any) -> None:
        drawn = event.then(guarded(redraw), inputs, outputs, **QUIET)
        drawn.then(guarded(lambda run_id: runs_forms.fill(studio, run_id)), view.selected, runs_forms.filled(forms), **QUIET)
        drawn.then(lambda run_id: run_id, view.selected, links.last_run, **QUIET)

    timer.tick(guarded(refresh), inputs, outputs, show_progress="hidden", queue=False)
    gr.on([shown.smoothing.release, shown.log_scale.input, comparison.cost.input, view.query.input], guarded(redraw), inputs, outputs,
          trigger_mode="always_last", **QUIET)  # fmt: skip
    follow(listing.submit(pick, [view.selected, view.compared, view.rows], [view.selected, view.compared, view.rows], **QUIET))
    for event in [
        *runs_actions.wire(studio, buttons, confirm, view.selected, view.compared),
        *runs_actions.wire_trash(studio, trash, view.selected),
        *runs_forms.wire(studio, forms, view.selected),
    ]:
        follow(event)

    def open_tab(wanted: str, remembered: str) -> str:
        return wanted or choose_at_start(studio, remembered)

    links.tabs.select(on_tab, None, timer, queue=False, show_progress="hidden")
    follow(current_page().load(open_tab, [links.show_run, links.last_run], view.selected, **QUIET))
    follow(links.show_run.change(lambda run_id: (run_id, gr.Timer(active=True)), links.show_run, [view.selected, timer], **QUIET))
    return RunsTab(view.selected, buttons.again, buttons.play)


def on_tab(event: gr.SelectData) -> gr.Timer:
    """The timer ticks only while the tab is looked at."""
    return gr.Timer(active=event.value == "Runs")


class Looked(NamedTuple):
    """What a page looks at, and what it has drawn last."""

    selected: str
    compared: str = ""
    query: str = ""
    rows: float = runs_list.PAGE
    seen: str = ""
    seen_list: str = ""
    smoothing: float = 0.9
    log_scale: bool = False
    cost: str = "parameters"


def pick(event: gr.EventData, selected: str, compared: str, rows: float) -> tuple[str, str, float]:
    """What a press in the list means: look at a run, tick one to compare it, untick all, show more."""
    pressed = event._data
    if pressed.get("more"):
        return selected, compared, rows + runs_list.PAGE
    if pressed.get("clear"):
        return selected, "", rows
    if pressed.get("compare"):
        return selected, runs_list.toggle(compared, str(pressed["compare"])), rows
    return str(pressed.get("run", "")), "", rows


def draw(studio: Studio, looked: Looked) -> list[Any]:
    """Values of all drawn widgets: those of the list, of one run, of several; gr.skip() for what has not changed."""
    runs = store.list_runs(studio.home)
    several = [run_id for run_id in runs_list.read_ids(looked.compared) if any(run.id == run_id for run in runs)]
    rows = runs_list.list_html(runs, looked.selected, several, looked.query or "", int(looked.rows or runs_list.PAGE))
    seen_list = f"{zlib.crc32(rows.encode()):x}"
    listing = gr.skip() if seen_list == looked.seen_list else {"rows": rows, "picked": looked.selected}
    compares = len(several) >= 2
    seen = "|".join(signature(studio, run_id) for run_id in (several if compares else [looked.selected])) + f"|{len(runs) > 0}"
    if seen == looked.seen:
        body: list[Any] = [gr.skip()] * (2 + len(Buttons._fields) + Cockpit.DRAWN + Comparison.DRAWN)
    elif compares:
        body = [gr.update(visible=False), gr.update(visible=True), *[gr.skip()] * (len(Buttons._fields) + Cockpit.DRAWN),
                *compare(studio, several, looked)]  # fmt: skip
    else:
        body = [gr.update(visible=True), gr.update(visible=False), *show(studio, looked, bool(runs)), *[gr.skip()] * Comparison.DRAWN]
    return [seen, seen_list, listing, *body]


def signature(studio: Studio, run_id: str) -> str:
    """Changes whenever anything the cockpit shows of a run may have changed; costs a few stat calls."""
    parts = [run_id]
    if run_id:
        paths = RunPaths(studio.home.runs / run_id)
        files = (paths.metrics, paths.progress, paths.result, paths.samples, paths.stop, paths.process, paths.notes, paths.log)
        parts += [_stamp(path) for path in files]
        status = store.read_status(paths).value if paths.spec.exists() else "gone"
        parts.append(status)
        if status == "queued":
            parts += [waiting.id for waiting in waiting_runs(studio.home)]
    return "/".join(parts)


def _stamp(path: os.PathLike[str]) -> str:
    try:
        state = os.stat(path)
    except OSError:
        return "-"
    return f"{state.st_size}.{state.st_mtime_ns}"


def show(studio: Studio, looked: Looked, any_runs: bool) -> list[Any]:
    """Values of the buttons and of every widget of the cockpit."""
    try:
        record = store.read_run(studio.home, looked.selected) if looked.selected else None
    except RunNotFound:
        record = None
    except RunError as error:
        return unreadable(studio, looked.selected, error)
    if record is None:
        texts = ("Pick a run", "The list shows every run of this home.") if any_runs else (
            "No runs yet", "Choose a model, a dataset and a method on the Train tab, then press Train.")  # fmt: skip
        return blank(markup.empty(*texts))
    table = metric_table(record.paths)
    if table.unread:
        record = replace(record, damaged=(*record.damaged, record.paths.metrics.name))
    records, revision = table.records(POINTS), looked.selected
    waiting = [paths.id for paths in waiting_runs(studio.home)] if record.status is RunStatus.QUEUED else []
    place = (waiting.index(record.id) + 1, len(waiting)) if record.id in waiting else None
    planned = float((record.plan or {}).get("memory_bytes") or 0)
    curve = loss_figure(loss_info(records, looked.smoothing), log_scale=looked.log_scale, revision=revision)
    vitals = vitals_figure(vitals_info(table.records(VITALS_POINTS), planned), revision=revision)
    return [
        *runs_actions.button_updates(record, place),
        cockpit.header_html(record, records, place),
        gr.update(value=plot.drawn(curve), visible=bool(records)),
        gr.update(visible=bool(records)),
        gr.update(value=plot.drawn(vitals), visible=bool(records)),
        cockpit.samples_html(record.paths),
        cockpit.details_html(record),
        store.read_log(record.paths),
        *runs_forms.offered(record),
    ]


def blank(header: str) -> list[Any]:
    """The cockpit with nothing in it."""
    hidden = gr.update(visible=False)
    return [*[hidden] * len(Buttons._fields), header, hidden, hidden, hidden, "", "", "", hidden, gr.skip(), hidden]


def unreadable(studio: Studio, run_id: str, error: RunError) -> list[Any]:
    """A run whose settings cannot be read: why, and the button that takes it away."""
    over = store.read_status(studio.home.run(run_id)).is_over
    shown = {"delete": gr.update(visible=over), "cancel": gr.update(visible=not over), "confirm": gr.skip()}
    buttons = [shown.get(name, gr.update(visible=False)) for name in Buttons._fields]
    return [*buttons, *blank(markup.notice(str(error), "bad"))[len(buttons) :]]


def compare(studio: Studio, run_ids: list[str], looked: Looked) -> list[Any]:
    """Values of every widget of the comparison."""
    runs = []
    for run_id in run_ids:
        try:
            runs.append(store.read_run(studio.home, run_id))
        except RunError as error:
            return [markup.notice(str(error), "bad"), gr.skip(), gr.skip(), ""]
    curves = compare_info([(run.name, metric_table(run.paths).records(COMPARED_POINTS)) for run in runs], looked.smoothing)
    info = pareto_info(runs_compare.run_costs(runs), looked.cost)  # type: ignore[arg-type]
    return [
        runs_compare.comparison_html(runs),
        plot.drawn(compare_figure(curves, log_scale=looked.log_scale, revision=looked.compared)),
        plot.drawn(pareto_figure(info, revision=f"{looked.compared} {looked.cost}")),
        runs_compare.differences_html(runs),
    ]


def choose_at_start(studio: Studio, remembered: str) -> str:
    """The run to show when a page opens: one in progress, else the one looked at last, else the newest."""
    runs = store.list_runs(studio.home)
    active = [run.id for run in runs if run.status.is_active]
    known = {run.id for run in runs}
    if active:
        return active[0]
    return remembered if remembered in known else (runs[0].id if runs else "")
