"""The widgets of the Runs tab, and the order in which they are given values. What they show is decided elsewhere."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr

from studio.ui import markup, plot, runs_forms, runs_list
from studio.ui.hidden import hidden_box

QUIET: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 8, "concurrency_id": "runs"}

ROW_CLICK = """
element.addEventListener('click', event => {
  const found = name => event.target.closest(`[data-${name}]`);
  const tick = found('compare'), more = found('more'), clear = found('clear'), row = found('run');
  if (tick) trigger('submit', {compare: tick.dataset.compare});
  else if (more) trigger('submit', {more: true});
  else if (clear) trigger('submit', {clear: true});
  else if (row) trigger('submit', {run: row.dataset.run});
});
"""


class View(NamedTuple):
    """What the page looks at, and what it has drawn. Hidden boxes: a gr.State keeps a connection open for as long as the page lives."""

    selected: gr.Textbox
    compared: gr.Textbox
    rows: gr.Number
    seen: gr.Textbox
    seen_list: gr.Textbox
    query: gr.Textbox


class Trash(NamedTuple):
    box: gr.Accordion
    runs: gr.Dropdown
    restore: gr.Button
    empty: gr.Button
    confirm: gr.Column
    told: gr.HTML
    yes: gr.Button
    no: gr.Button


class Buttons(NamedTuple):
    stop: gr.Button
    cancel: gr.Button
    earlier: gr.Button
    later: gr.Button
    play: gr.Button
    again: gr.Button
    methods: gr.Button
    delete: gr.Button
    confirm: gr.Column


class Cockpit(NamedTuple):
    """The widgets that show one run; those of `drawn` in the order they are filled."""

    header: gr.HTML
    loss: gr.HTML
    options: gr.Row
    smoothing: gr.Slider
    log_scale: gr.Checkbox
    vitals: gr.HTML
    samples: gr.HTML
    details: gr.HTML
    log: gr.Textbox
    resume: gr.Accordion
    checkpoint: gr.Dropdown
    export: gr.Accordion
    DRAWN = 10

    @property
    def drawn(self) -> list[Any]:
        return [self.header, self.loss, self.options, self.vitals, self.samples, self.details, self.log,
                self.resume, self.checkpoint, self.export]  # fmt: skip


class Comparison(NamedTuple):
    """The widgets that show several runs."""

    header: gr.HTML
    curves: gr.HTML
    cost: gr.Radio
    pareto: gr.HTML
    differences: gr.HTML
    DRAWN = 4

    @property
    def drawn(self) -> list[Any]:
        return [self.header, self.curves, self.pareto, self.differences]


class Confirm(NamedTuple):
    yes: gr.Button
    no: gr.Button


def build_list() -> tuple[View, gr.HTML, Trash]:
    query = gr.Textbox(
        "", show_label=False, container=False, label="Search the runs", placeholder="Search by name, tag, method or status", max_lines=1,
        elem_id="run-search",
    )  # fmt: skip
    listing = gr.HTML({"rows": "", "picked": ""}, html_template="${value.rows}", js_on_load=ROW_CLICK, elem_id="run-list", padding=False)
    view = View(
        hidden_box("run looked at", "selected-run"),
        hidden_box("runs compared", "compared-runs"),
        gr.Number(runs_list.PAGE, visible="hidden", label="rows shown"),
        hidden_box("state last drawn"),
        hidden_box("list last drawn"),
        query,
    )
    return view, listing, _build_trash()


def _build_trash() -> Trash:
    with gr.Accordion("Trash", open=False, elem_id="trash") as box:
        runs = gr.Dropdown([], label="Deleted runs", info="They stay here until the trash is emptied.", interactive=True)
        with gr.Row(elem_classes="actions"):
            restore = gr.Button("Take it back", size="sm", elem_id="restore-button")
            empty = gr.Button("Empty the trash", size="sm", elem_id="empty-trash-button")
        with gr.Column(visible=False, elem_classes="confirm") as confirm:
            told = gr.HTML("", padding=False, elem_classes="flush", elem_id="empty-trash-told")
            with gr.Row(elem_classes="actions"):
                yes = gr.Button("Delete for good", size="sm", variant="stop", elem_id="confirm-empty-button")
                no = gr.Button("Keep them", size="sm", elem_id="keep-trash-button")
    return Trash(box, runs, restore, empty, confirm, told, yes, no)


def build_cockpit() -> tuple[tuple[Buttons, Confirm], Cockpit, runs_forms.Forms]:
    header = gr.HTML("", elem_id="run-header", padding=False)
    buttons, confirm = _build_buttons()
    loss = plot.build("loss-plot", visible=False)
    with gr.Row(elem_classes="plot-options", visible=False) as options:
        smoothing = gr.Slider(0, 0.99, value=0.9, step=0.01, label="Smoothing", container=True, min_width=160)
        log_scale = gr.Checkbox(False, label="Logarithmic", min_width=120)
    vitals = plot.build("vitals-plot", visible=False)
    samples = gr.HTML("", elem_id="samples", padding=False)
    forms = runs_forms.build()
    with gr.Accordion("Settings and surroundings", open=False):
        details = gr.HTML("", padding=False)
    with gr.Accordion("Log", open=False):
        log = gr.Textbox(show_label=False, label="Log", lines=12, max_lines=12, interactive=False, buttons=["copy"], elem_classes="log")
    cockpit = Cockpit(
        header, loss, options, smoothing, log_scale, vitals, samples, details, log, forms.resume, forms.checkpoint, forms.export
    )
    return (buttons, confirm), cockpit, forms


def _build_buttons() -> tuple[Buttons, Confirm]:
    def button(text: str, name: str, **options: Any) -> gr.Button:
        return gr.Button(text, size="sm", visible=False, elem_id=f"{name}-button", **options)

    with gr.Row(elem_classes="actions"):
        stop, cancel = button("Stop & save", "stop"), button("Cancel", "cancel", variant="stop")
        earlier, later = button("Start earlier", "earlier"), button("Start later", "later")
        play, again = button("Open in Playground", "play", variant="primary"), button("Train again with changes", "again")
        methods, delete = button("Compare the four methods", "methods"), button("Delete", "delete")
    with gr.Column(visible=False, elem_classes="confirm") as confirm:
        gr.HTML(
            markup.notice("The run moves to the trash, from where it can be taken back.", "warn", "Delete this run?"),
            padding=False,
            elem_classes="flush",
        )
        with gr.Row(elem_classes="actions"):
            yes = gr.Button("Delete it", size="sm", variant="stop", elem_id="confirm-delete-button")
            no = gr.Button("Keep it", size="sm", elem_id="keep-button")
    return Buttons(stop, cancel, earlier, later, play, again, methods, delete, confirm), Confirm(yes, no)


def build_comparison() -> Comparison:
    header = gr.HTML("", elem_id="comparison", padding=False)
    gr.HTML(markup.heading("", "Loss", "Lines: training, smoothed. Diamonds: held out."), padding=False, elem_classes="flush")
    curves = plot.build("compare-plot")
    gr.HTML(
        markup.heading("", "Quality against cost", "Filled: no other run here is both better and cheaper."),
        padding=False,
        elem_classes="flush",
    )
    cost = gr.Radio(
        [("Trainable parameters", "parameters"), ("Peak memory", "memory"), ("Time", "time")], value="parameters", label="Cost",
        show_label=False, container=False, elem_classes="cost",
    )  # fmt: skip
    pareto = plot.build("pareto-plot")
    differences = gr.HTML("", padding=False, elem_id="differences")
    return Comparison(header, curves, cost, pareto, differences)
