"""The Runs tab: every run on the left, one run's cockpit on the right, live or long over.

The page remembers only which run is looked at. A timer asks the cheapest question there is (sizes and times of the run's files); when
nothing moved it changes nothing. So any number of pages watch the same run, and a reload or a restarted studio shows it again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import gradio as gr

from studio.core.errors import RunNotFound
from studio.core.paths import RunPaths
from studio.core.records import RunStatus
from studio.jobs import runner, store
from studio.jobs.metrics import metric_table
from studio.jobs.notes import delete_run
from studio.plots.loss import loss_figure, loss_info
from studio.plots.vitals import vitals_figure, vitals_info
from studio.ui import cockpit, markup
from studio.ui.guard import guarded
from studio.ui.studio import Studio

POINTS = 1200
ROW_CLICK = """
element.addEventListener('click', event => {
  const row = event.target.closest('[data-run]');
  if (row) { props.value = {...props.value, picked: row.dataset.run}; trigger('submit', {run: row.dataset.run}); }
});
"""


class RunsTab(NamedTuple):
    """What other tabs need: the run looked at, and buttons they answer to."""

    selected: gr.Textbox
    remembered: gr.BrowserState
    again: gr.Button
    play: gr.Button
    timer: gr.Timer
    follow: Callable[[Any], None]
    """Draw the run now selected after an event has changed which it is, and remember it."""


class Cockpit(NamedTuple):
    """The widgets that show one run, in the order `show` fills them."""

    header: gr.HTML
    stop: gr.Button
    cancel: gr.Button
    resume: gr.Button
    again: gr.Button
    play: gr.Button
    delete: gr.Button
    loss: gr.Plot
    vitals: gr.Plot
    samples: gr.HTML
    details: gr.HTML
    log: gr.Textbox


def build(studio: Studio) -> RunsTab:
    # Hidden boxes, not gr.State: a State keeps a connection open for as long as the page lives.
    selected = gr.Textbox("", visible="hidden", label="run looked at", elem_id="selected-run")
    seen = gr.Textbox("", visible="hidden", label="state last drawn")
    remembered = gr.BrowserState("", storage_key="peft-studio-run", secret="peft-studio")
    with gr.Row(elem_classes="two-columns", equal_height=False):
        with gr.Column(scale=3, min_width=280):
            listing = gr.HTML(
                {"rows": "", "picked": ""}, html_template="${value.rows}", js_on_load=ROW_CLICK, elem_id="run-list", padding=False
            )
        with gr.Column(scale=9, min_width=360):
            widgets, smoothing, log_scale = _cockpit_widgets()
    timer = gr.Timer(1.0, active=False)
    view = [selected, seen, smoothing, log_scale]
    outputs = [seen, listing, *widgets]

    def refresh(run_id: str, was: str, weight: float, logarithmic: bool) -> Any:
        now = signature(studio, run_id)
        return gr.skip() if now == was else [now, *show(studio, run_id, weight, logarithmic)]

    def redraw(run_id: str, was: str, weight: float, logarithmic: bool) -> Any:
        return [signature(studio, run_id), *show(studio, run_id, weight, logarithmic)]

    quiet = {"show_progress": "hidden", "concurrency_limit": 8, "concurrency_id": "runs"}

    def follow(event: Any) -> None:
        event.then(guarded(redraw), view, outputs, **quiet).then(lambda run_id: run_id, selected, remembered, **quiet)

    timer.tick(guarded(refresh), view, outputs, show_progress="hidden", queue=False)
    gr.on([smoothing.release, log_scale.input], guarded(redraw), view, outputs, **quiet)
    follow(listing.submit(pick, None, selected, **quiet))
    for event in _wire_buttons(studio, widgets, selected):
        follow(event)
    return RunsTab(selected, remembered, widgets.again, widgets.play, timer, follow)


def pick(event: gr.EventData) -> str:
    """The run whose row was pressed."""
    return str(event._data.get("run", ""))


def _cockpit_widgets() -> tuple[Cockpit, gr.Slider, gr.Checkbox]:
    header = gr.HTML("", elem_id="run-header", padding=False)
    with gr.Row(elem_classes="actions"):
        stop = gr.Button("Stop & save", size="sm", visible=False, elem_id="stop-button")
        cancel = gr.Button("Cancel", size="sm", variant="stop", visible=False, elem_id="cancel-button")
        resume = gr.Button("Resume", size="sm", visible=False, elem_id="resume-button")
        play = gr.Button("Open in Playground", size="sm", visible=False, variant="primary", elem_id="play-button")
        again = gr.Button("Train again with changes", size="sm", visible=False, elem_id="again-button")
        delete = gr.Button("Delete", size="sm", visible=False, elem_id="delete-button")
    loss = gr.Plot(show_label=False, container=False, elem_id="loss-plot", visible=False)
    with gr.Row(elem_classes="plot-options"):
        smoothing = gr.Slider(0, 0.99, value=0.9, step=0.01, label="Smoothing", container=True, min_width=160)
        log_scale = gr.Checkbox(False, label="Logarithmic", min_width=120)
    vitals = gr.Plot(show_label=False, container=False, elem_id="vitals-plot", visible=False)
    samples = gr.HTML("", elem_id="samples", padding=False)
    with gr.Accordion("Settings and surroundings", open=False):
        details = gr.HTML("", padding=False)
    with gr.Accordion("Log", open=False):
        log = gr.Textbox(show_label=False, label="Log", lines=12, max_lines=12, interactive=False, buttons=["copy"], elem_classes="log")
    return Cockpit(header, stop, cancel, resume, again, play, delete, loss, vitals, samples, details, log), smoothing, log_scale


def signature(studio: Studio, run_id: str) -> str:
    """Changes whenever anything the tab shows may have changed; costs a few stat calls."""
    parts = [run_id]
    if run_id:
        paths = RunPaths(studio.home.runs / run_id)
        files = (paths.metrics, paths.progress, paths.result, paths.samples, paths.stop, paths.process, paths.notes)
        parts += [_stamp(path) for path in files]
        parts.append(store.read_status(paths).value if paths.spec.exists() else "gone")
    parts.append(_stamp(studio.home.runs))
    parts += [f"{run.id}{run.status.value}{run.steps}" for run in store.list_runs(studio.home) if not run.status.is_over]
    return "|".join(parts)


def _stamp(path: os.PathLike[str]) -> str:
    try:
        state = os.stat(path)
    except OSError:
        return "-"
    return f"{state.st_size}.{state.st_mtime_ns}"


def show(studio: Studio, run_id: str, smoothing: float, logarithmic: bool) -> list[Any]:
    """Values of the list and of every cockpit widget."""
    runs = store.list_runs(studio.home)
    listing = {"rows": cockpit.list_html(runs, run_id), "picked": run_id}
    try:
        record = store.read_run(studio.home, run_id) if run_id else None
    except RunNotFound:
        record = None
    if record is None:
        text = "No runs yet" if not runs else "Pick a run"
        action = (
            "Choose a model, a dataset and a method on the Train tab, then press Train."
            if not runs
            else "The list shows every run of this home."
        )
        return [listing, *blank(markup.empty(text, action))]
    records = metric_table(record.paths).records(POINTS)
    status, over = record.status, record.status.is_over
    usable = (record.paths.adapter / "adapter_config.json").is_file()
    can_resume = over and any(record.paths.checkpoints.glob("*")) and status is not RunStatus.FINISHED
    planned = float((record.plan or {}).get("memory_bytes", 0))
    return [
        listing,
        cockpit.header_html(record, records),
        gr.update(visible=status is RunStatus.RUNNING),
        gr.update(visible=not over),
        gr.update(visible=can_resume),
        gr.update(visible=True),
        gr.update(visible=usable and over),
        gr.update(visible=over),
        gr.update(value=loss_figure(loss_info(records, smoothing), log_scale=logarithmic, revision=run_id), visible=bool(records)),
        gr.update(value=vitals_figure(vitals_info(records, planned), revision=run_id), visible=bool(records)),
        cockpit.samples_html(record.paths),
        cockpit.details_html(record),
        store.read_log(record.paths),
    ]


def blank(header: str) -> list[Any]:
    """The cockpit with nothing in it."""
    return [header, *[gr.update(visible=False)] * 8, "", "", ""]


def _wire_buttons(studio: Studio, widgets: Cockpit, selected: gr.Textbox) -> list[Any]:
    """The buttons' events, for the cockpit to be drawn anew after each."""

    def act(action: Callable[[Any, str], Any], told: str) -> Callable[[str], None]:
        def handler(run_id: str) -> None:
            action(studio.home, run_id)
            gr.Info(told, duration=4)

        return guarded(handler)

    def resume(run_id: str) -> None:
        studio.play.close()
        runner.resume_run(studio.home, run_id)
        gr.Info("The run goes on from its last checkpoint.", duration=4)

    def delete(run_id: str) -> str:
        delete_run(studio.home, run_id)
        gr.Info("Moved to the trash; `python -m studio restore` brings it back.", duration=6)
        return ""

    return [
        widgets.stop.click(act(runner.stop_run, "The run saves its adapter after this step, then ends."), selected, None),
        widgets.cancel.click(
            act(runner.cancel_run, "Cancelled. Nothing of the run was kept but its settings and its log."), selected, None
        ),
        widgets.resume.click(guarded(resume), selected, None),
        widgets.delete.click(guarded(delete), selected, selected),
    ]


def choose_at_start(studio: Studio, remembered: str) -> str:
    """The run to show when a page opens: one in progress, else the one looked at last, else the newest."""
    runs = store.list_runs(studio.home)
    active = [run.id for run in runs if run.status.is_active]
    known = {run.id for run in runs}
    if active:
        return active[0]
    return remembered if remembered in known else (runs[0].id if runs else "")
