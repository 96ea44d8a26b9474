"""The Quantization tab: a model's own weights under NF4, FP4, INT4 and INT8, tensor by tensor; and by hand, step by step.

The analysis worker reads the files; a second look comes from its cache. Nothing is measured before the tab is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import gradio as gr

from studio.core.errors import StudioError
from studio.ui import figure, heat_map, markup, nf4_by_hand, quantization_effect
from studio.ui import quantization_view as view
from studio.ui.figure import Figure
from studio.ui.guard import guarded
from studio.ui.hidden import hidden_box
from studio.ui.lazy import on_visit
from studio.ui.studio import Studio

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
SKIPPED = 9
"""Outputs that stay as they are while a model is read: module and choice. Heat map and totals do too, where there are any."""
NOTHING = markup.empty("Nothing measured yet", "Choose a model that is on this disk and press Measure. No model is loaded.")
MEASURING = markup.empty("Measuring …", "The weights are read from this disk, matrix by matrix. No model is loaded.")
EVERY = 7
"""Matrices between two updates of the progress bar."""


class Choice(NamedTuple):
    """What is measured, and what of it is shown."""

    model: gr.Dropdown
    block_size: gr.Dropdown
    double_quant: gr.Checkbox
    kind: gr.Radio
    module: gr.Textbox

    @property
    def widgets(self) -> list[Any]:
        return list(self)


class Widgets(NamedTuple):
    """Where the answers go."""

    progress: gr.HTML
    heat: gr.HTML
    totals: gr.HTML
    module: gr.HTML
    weights: Figure
    codes: Figure
    absmax: Figure
    errors: gr.HTML

    @property
    def module_outputs(self) -> list[Any]:
        return [self.module, *self.weights.outputs, *self.codes.outputs, *self.absmax.outputs, self.errors]

    @property
    def outputs(self) -> list[Any]:
        return [self.progress, self.heat, self.totals, *self.module_outputs]


def build(studio: Studio, tab: gr.Tab) -> None:
    """The tab's content; `tab` is itself, whose first selection measures the model chosen."""
    with gr.Tabs(elem_classes="sub-tabs"):
        with gr.Tab("A model", id="quantization-model"):
            _model_tab(studio, tab)
        with gr.Tab("By hand", id="quantization-hand"):
            nf4_by_hand.build()


def _model_tab(studio: Studio, tab: gr.Tab) -> None:
    with gr.Row(elem_classes="two-columns", equal_height=False):
        with gr.Column(scale=4, min_width=300):
            choice, measure = _choice(studio)
            progress = gr.HTML("", padding=False)
            heat = heat_map.build("quantization-heat")
        with gr.Column(scale=9, min_width=340):
            totals = gr.HTML(NOTHING, padding=False, elem_id="quantization-totals")
            module = gr.HTML("", padding=False, elem_id="quantization-module")
            weights = figure.build("weights-histogram")
            with gr.Row(elem_classes="lab-pair"):
                with gr.Column(min_width=320):
                    codes = figure.build("code-usage")
                with gr.Column(min_width=320):
                    absmax = figure.build("block-maxima")
            errors = gr.HTML("", padding=False, elem_id="quantization-errors")
            quantization_effect.build(studio, [choice.model, choice.block_size, choice.double_quant, choice.module])
    widgets = Widgets(progress, heat, totals, module, weights, codes, absmax, errors)
    _wire(studio, tab, choice, measure, widgets)


def _choice(studio: Studio) -> tuple[Choice, gr.Button]:
    model = gr.Dropdown(studio.model_choices(), value="starter", label="Model", allow_custom_value=True, elem_id="quantization-model",
                        info="From the list, or the path of a folder with safetensors or of a GGUF file.")  # fmt: skip
    with gr.Row():
        block_size = gr.Dropdown([(str(size), size) for size in BLOCK_SIZES], value=64, label="Block size", min_width=120, filterable=False,
                                 info="Weights that share one maximum.")  # fmt: skip
        double_quant = gr.Checkbox(True, label="Double quantization", info="Block maxima in 8 bits.", min_width=140)
    kind = gr.Radio([(title, name) for name, title in view.TITLES.items()], value="nf4", label="Type shown", elem_id="quantization-kind")
    measure = gr.Button("Measure", variant="primary", elem_id="measure-button")
    module = hidden_box("module looked at")
    return Choice(model, block_size, double_quant, kind, module), measure


def _wire(studio: Studio, tab: gr.Tab, choice: Choice, measure: gr.Button, widgets: Widgets) -> None:
    def run(model: str, block_size: int, double_quant: bool, kind: str, picked: str) -> Iterator[Any]:
        yield from measured(studio, (model, block_size, double_quant), kind, picked)

    def first_look(model: str, block_size: int, double_quant: bool, kind: str, picked: str) -> Iterator[Any]:
        if picked:
            yield [gr.skip()] * (1 + len(widgets.outputs))  # a generator that yields nothing would empty every output
            return
        try:
            yield from measured(studio, (model, block_size, double_quant), kind, picked)
        except StudioError as error:  # said in the page: the person has pressed nothing yet
            yield ["", "", markup.empty(error.message, error.hint), *[gr.skip()] * len(widgets.module_outputs), ""]

    def other_kind(*values: Any) -> list[Any]:
        model, block_size, double_quant, kind, picked = values
        return (
            redrawn(studio, (model, block_size, double_quant), kind, picked) if picked else [gr.skip()] * (1 + len(widgets.module_outputs))
        )

    def click(event: gr.EventData, model: str, block_size: int, double_quant: bool, kind: str) -> list[Any]:
        picked = heat_map.picked(event)
        return [picked, *module_values(studio, (model, block_size, double_quant), kind, picked)]

    outputs, quiet = [*widgets.outputs, choice.module], figure.quiet()
    gr.on(on_visit(tab), guarded(first_look), choice.widgets, outputs, **quiet)
    measure.click(guarded(run), choice.widgets, outputs, **quiet)
    gr.on([choice.block_size.input, choice.double_quant.input], guarded(run), choice.widgets, outputs, **quiet)
    choice.kind.input(guarded(other_kind), choice.widgets, [widgets.heat, *widgets.module_outputs], **quiet)
    widgets.heat.submit(guarded(click), choice.widgets[:4], [choice.module, *widgets.module_outputs], **quiet)


Settings = tuple[str, int, bool]
"""Model, block size, double quantization."""


def measured(studio: Studio, settings: Settings, kind: str, picked: str) -> Iterator[list[Any]]:
    """Progress, then everything of a model: values of Widgets.outputs and of the hidden choice."""
    skipped = [gr.skip()] * (2 + SKIPPED)
    totals = gr.skip() if picked else MEASURING
    yield [markup.progress_bar(0, "reading the weights", "waiting"), gr.skip(), totals, *[gr.skip()] * SKIPPED]
    try:
        for event in studio.analysis.stream("model", **_asked(settings)):
            if event.name == "done":
                yield _opened(studio, settings, kind, picked, event.data)
            elif event.data[0] % EVERY == 0 or event.data[0] == event.data[1]:
                done, every = event.data
                label = f"{done} of {every} matrices"
                yield [f'{markup.progress_bar(done / every, label)}<p class="how">{label}</p>', *skipped]
    except StudioError:
        # no bar that moves for ever; the toast says why
        yield ["", gr.skip(), gr.skip() if picked else NOTHING, *[gr.skip()] * SKIPPED]
        raise


def _opened(studio: Studio, settings: Settings, kind: str, picked: str, report: dict[str, Any]) -> list[Any]:
    names = {module["name"] for module in report["modules"]}
    if heat_map.split_picked(picked)[1] not in names:
        picked = view.first_module(report)
    shown = module_values(studio, settings, kind, picked)
    return ["", view.heat(report, kind, picked), view.totals_html(report), *shown, picked]


def redrawn(studio: Studio, settings: Settings, kind: str, picked: str) -> list[Any]:
    """Heat map and module for another type, from the worker's cache."""
    report = studio.analysis.call("model", **_asked(settings))
    return [view.heat(report, kind, picked), *module_values(studio, settings, kind, picked)]


def module_values(studio: Studio, settings: Settings, kind: str, picked: str) -> list[Any]:
    """Values of Widgets.module_outputs for one module."""
    layer, module = heat_map.split_picked(picked)
    report = studio.analysis.call("module", layer=layer, module=module, **_asked(settings))
    return view.module_values(report, kind)


def _asked(settings: Settings) -> dict[str, Any]:
    model, block_size, double_quant = settings
    return {"model": model or "", "block_size": int(block_size), "double_quant": bool(double_quant)}
