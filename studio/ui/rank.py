"""The Rank tab: which directions an adapter or a whole model learned; what a prompt does inside other methods; and rank by hand."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import gradio as gr

from studio.core.errors import StudioError
from studio.ui import adapter_choice, figure, heat_map, insides, markup, rank_by_hand, rank_compare, rank_sweep, rank_tuned
from studio.ui import rank_view as view
from studio.ui.figure import Figure
from studio.ui.guard import guarded
from studio.ui.hidden import hidden_box
from studio.ui.lazy import on_visit
from studio.ui.studio import Studio


class Choice(NamedTuple):
    """What is looked at. `step` is a snapshot's, the last one for the final adapter; `seen` the state the adapter was in when drawn."""

    adapter: gr.Dropdown
    step: gr.Slider
    measure: gr.Radio
    module: gr.Textbox
    seen: gr.Textbox

    @property
    def widgets(self) -> list[Any]:
        return [self.adapter, self.step, self.measure, self.module]


class Widgets(NamedTuple):
    """Where the answers go."""

    heat: gr.HTML
    summary: gr.HTML
    module: gr.HTML
    spectrum: Figure
    growth: Figure
    inside: gr.HTML
    ask: gr.Button

    @property
    def outputs(self) -> list[Any]:
        return [self.heat, self.summary, self.module, *self.spectrum.outputs, *self.growth.outputs, self.inside, self.ask]


def build(studio: Studio, tab: gr.Tab) -> None:
    """The tab's content; `tab` is itself, whose selection lists the runs and shows the newest."""
    with gr.Tabs(elem_classes="sub-tabs"):
        with gr.Tab("A run", id="rank-run"):
            _run_tab(studio, tab)
        with gr.Tab("Compare two", id="rank-compare") as compare:
            rank_compare.build(studio, compare)
        with gr.Tab("A tuned model", id="rank-tuned-tab") as tuned:
            rank_tuned.build(studio, tuned)
        with gr.Tab("Inside an adapter", id="rank-insides") as inside:
            insides.build(studio, inside)
        with gr.Tab("Sweep", id="rank-sweep-tab") as sweep:
            rank_sweep.build(studio, sweep)
        with gr.Tab("By hand", id="rank-hand") as hand:
            rank_by_hand.build(studio, hand)


def _run_tab(studio: Studio, tab: gr.Tab) -> None:
    with gr.Row(elem_classes="two-columns", equal_height=False):
        with gr.Column(scale=4, min_width=300):
            adapter = gr.Dropdown([], value=None, label="Run or adapter", allow_custom_value=True, elem_id="rank-adapter",
                                  info="A LoRA or QLoRA run, or the path of a folder that PEFT saved a LoRA in.")  # fmt: skip
            step = gr.Slider(0, 1, value=0, step=1, label="Step of training", visible=False, elem_id="rank-step",
                             info="Snapshots kept while it was trained.")  # fmt: skip
            measure = gr.Radio(
                [(title, name) for name, title in view.MEASURES.items()], value="effective_rank", label="Shown", elem_id="rank-measure"
            )
            module = hidden_box("module looked at")
            seen = hidden_box("state looked at")
            heat = heat_map.build("rank-heat")
        with gr.Column(scale=9, min_width=340):
            summary = gr.HTML(nothing_html(studio), padding=False, elem_id="rank-summary")
            head = gr.HTML("", padding=False, elem_id="rank-module")
            spectrum = figure.build("singular-values")
            growth = figure.build("growth")
            with gr.Row(elem_classes="actions"):
                ask = gr.Button("Compare with the base's weights", size="sm", visible=False, elem_id="inside-button")
            inside = gr.HTML("", padding=False, elem_id="rank-inside")
    choice, widgets = Choice(adapter, step, measure, module, seen), Widgets(heat, summary, head, spectrum, growth, inside, ask)
    _wire(studio, tab, choice, widgets)


def _wire(studio: Studio, tab: gr.Tab, choice: Choice, widgets: Widgets) -> None:
    def open_tab(adapter: str | None, measure: str, picked: str, seen: str) -> list[Any]:
        choices = adapter_choice.adapter_choices(studio)
        known = {value for _, value in choices}
        wanted = adapter if adapter and (adapter in known or not picked) else (choices[0][1] if choices else "")
        listed = adapter_choice.relist(choices, adapter, wanted or None)
        if picked and wanted == adapter and seen == adapter_choice.state_of(studio, wanted):
            return [listed, *[gr.skip()] * (len(widgets.outputs) + 3)]
        try:
            return [listed, *opened(studio, wanted, measure)]
        except StudioError as error:  # said in the page: the person has pressed nothing yet
            return [listed, gr.update(visible=False), "", "", *blank(markup.empty(error.message, error.hint))]

    def choose(adapter: str | None, measure: str) -> list[Any]:
        return opened(studio, adapter or "", measure)

    def redraw(adapter: str, step: float, measure: str, picked: str) -> list[Any]:
        return shown(studio, view.Look(adapter, int(step), measure, picked))

    def click(event: gr.EventData, adapter: str, step: float) -> list[Any]:
        picked = heat_map.picked(event)
        report = measured(studio, adapter, int(step))
        module = view.find_module(report, picked)
        return [picked, view.module_html(module), *view.spectrum_values(report, module), ""]

    def inside(adapter: str, picked: str) -> str:
        layer, module = heat_map.split_picked(picked)
        stated = studio.analysis.call("spectrum", adapter=adapter)["base_model"]
        base = adapter_choice.base_of(studio, adapter, stated)
        return view.inside_html(studio.analysis.call("inside", adapter=adapter, base=base, layer=layer, module=module), base)

    quiet = figure.quiet()
    opened_outputs = [choice.step, choice.module, choice.seen, *widgets.outputs]
    visited = [choice.adapter, choice.measure, choice.module, choice.seen]
    gr.on(on_visit(tab), guarded(open_tab), visited, [choice.adapter, *opened_outputs], **quiet)
    choice.adapter.input(guarded(choose), [choice.adapter, choice.measure], opened_outputs, **quiet)
    gr.on([choice.step.input, choice.measure.input], guarded(redraw), choice.widgets, widgets.outputs, trigger_mode="always_last", **quiet)
    clicked = [choice.module, widgets.module, *widgets.spectrum.outputs, widgets.inside]
    widgets.heat.submit(guarded(click), [choice.adapter, choice.step], clicked, **quiet)
    widgets.ask.click(guarded(inside), [choice.adapter, choice.module], widgets.inside, concurrency_limit=4, concurrency_id="analysis")


def nothing_html(studio: Studio) -> str:
    return markup.empty("No adapter to look into yet", "Train a LoRA or QLoRA run on the Train tab, or type the path of an adapter folder.")


def measured(studio: Studio, adapter: str, step: int | None = None) -> dict[str, Any]:
    """The worker's report on the snapshot nearest to `step`, on the final adapter at or after the last.

    With the adapter's name as its title, and whether it is being trained now.
    """
    training = adapter_choice.is_training(studio, adapter)  # before it is read: nothing unfinished is called final
    report = studio.analysis.call("spectrum", adapter=adapter, step=step)
    return {**report, "title": adapter_choice.title_of(studio, adapter), "training": training}


def opened(studio: Studio, adapter: str, measure: str) -> list[Any]:
    """Slider, chosen module, the adapter's state and everything shown, for an adapter looked at anew."""
    if not adapter:
        return [gr.update(visible=False), "", "", *blank(nothing_html(studio))]
    state = adapter_choice.state_of(studio, adapter)  # before it is read: what is saved meanwhile is seen on the next visit
    report = measured(studio, adapter)
    steps = [point["step"] for point in report["growth"]]
    if len(steps) > 1:
        apart = math.gcd(*(later - steps[0] for later in steps[1:])) or 1
        slider = gr.update(minimum=steps[0], maximum=steps[-1], step=apart, value=steps[-1], visible=True)
    else:
        slider = gr.update(visible=False)
    picked = view.first_module(report)
    return [slider, picked, state, *view.values(report, measure, picked)]


def shown(studio: Studio, look: view.Look) -> list[Any]:
    """Values of Widgets.outputs at a step; at the last kept step the final adapter itself."""
    if not look.adapter or not look.picked:
        return [gr.skip()] * 10
    return view.values(measured(studio, look.adapter, look.step), look.measure, look.picked)


def blank(summary: str) -> list[Any]:
    """Values of Widgets.outputs with nothing in them but a message."""
    return ["", summary, "", *figure.hidden(), *figure.hidden(), "", gr.update(visible=False)]
