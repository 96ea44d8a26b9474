"""A merged or fully tuned model beside its base: how far every module was moved, and the spectrum of one module's change.

The overview reads both models once, tensor by tensor; a spectrum is a dense SVD, made when its cell is pressed. Both are kept by the
analysis worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import gradio as gr

from studio.core.errors import AnalysisError, StudioError
from studio.plots import spectrum as plots
from studio.ui import adapter_choice, figure, heat_map, markup
from studio.ui.figure import Figure
from studio.ui.guard import guarded
from studio.ui.studio import Studio

EVERY = 7
"""Modules between two updates of the progress bar."""


class Widgets(NamedTuple):
    """Where the answers go."""

    progress: gr.HTML
    heat: gr.HTML
    summary: gr.HTML
    module: gr.HTML
    spectrum: Figure

    @property
    def module_outputs(self) -> list[Any]:
        return [self.module, *self.spectrum.outputs]

    @property
    def outputs(self) -> list[Any]:
        return [self.progress, self.heat, self.summary, *self.module_outputs]


def build(studio: Studio, tab: gr.Tab) -> None:
    """The sub-tab's content; `tab` is itself, whose selection lists the models."""
    with gr.Row(elem_classes="two-columns", equal_height=False):
        with gr.Column(scale=4, min_width=300):
            base = gr.Dropdown(studio.model_choices(), value="starter", label="Base model", allow_custom_value=True, elem_id="tuned-base")
            tuned = gr.Dropdown([], label="Tuned model", allow_custom_value=True, elem_id="tuned-model",
                                info="A merged export of a run, or the path of a fully tuned model's folder.")  # fmt: skip
            go = gr.Button("Measure the difference", variant="primary", elem_id="tuned-go")
            progress = gr.HTML("", padding=False)
            heat = heat_map.build("tuned-heat")
        with gr.Column(scale=9, min_width=340):
            action = "Export a run as a merged model on the Runs tab, or type the path of a tuned model's folder, and press Measure."
            summary = gr.HTML(markup.empty("Nothing measured yet", action), padding=False, elem_id="tuned-summary")
            module = gr.HTML("", padding=False, elem_id="tuned-module")
            spectrum = figure.build("tuned-spectrum")
    widgets = Widgets(progress, heat, summary, module, spectrum)

    def listed(other: str | None) -> list[Any]:
        choices = tuned_choices(studio)
        first = other or (choices[0][1] if choices else None)
        return [gr.update(choices=studio.model_choices()), adapter_choice.relist(choices, other, first)]

    def measure(one: str | None, other: str | None) -> Iterator[list[Any]]:
        yield from measured(studio, (one or "", other or ""))

    def click(event: gr.EventData, one: str, other: str) -> Iterator[list[Any]]:
        yield from module_values(studio, (one, other), heat_map.picked(event))

    quiet = figure.quiet()
    tab.select(guarded(listed), tuned, [base, tuned], **quiet)
    go.click(guarded(measure), [base, tuned], widgets.outputs, **quiet)
    heat.submit(guarded(click), [base, tuned], widgets.module_outputs, trigger_mode="always_last", **quiet)


def tuned_choices(studio: Studio) -> list[tuple[str, str]]:
    """(title, folder) of merged exports, newest first, then of other models in the home."""
    exports = sorted((studio.home.root / "exports").glob("*/*/config.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    merged = [(f"{file.parent.parent.name}, {file.parent.name}", str(file.parent)) for file in exports]
    return [*merged, *[choice for choice in studio.model_choices() if choice[1].startswith(str(studio.home.models))]]


def measured(studio: Studio, pair: tuple[str, str]) -> Iterator[list[Any]]:
    """Progress, then values of Widgets.outputs: every module, and the spectrum of the one that moved most. Errors: AnalysisError."""
    base, tuned = pair
    if not base.strip() or not tuned.strip():
        raise AnalysisError("Two models are needed.", "Choose the base, and a merged or fully tuned model of the same shape.")
    skipped = [gr.skip()] * 5
    yield [markup.waiting("Reading the weights"), *skipped]
    try:
        for event in studio.analysis.stream("deltas", base=base, tuned=tuned):
            if event.name == "done":
                yield from _opened(studio, pair, event.data)
            elif event.data[0] % EVERY == 0:
                done, every = event.data
                label = f"{done} of {every} matrices"
                yield [f'{markup.progress_bar(done / every, label)}<p class="how">{label}</p>', *skipped]
    except StudioError:
        yield ["", *skipped]  # no bar that moves for ever; the toast says why
        raise


def _opened(studio: Studio, pair: tuple[str, str], report: dict[str, Any]) -> Iterator[list[Any]]:
    most = max(report["modules"], key=lambda module: module["relative_norm"] or 0)
    shown = ["", heat(report, most["name"]), summary_html(report, title_of(studio, pair[1]))]
    for values in module_values(studio, pair, f"{most['layer']}|{most['name']}"):
        yield [*shown, *values]


def heat(report: dict[str, Any], chosen: str) -> str:
    cells = [
        heat_map.Cell(item["name"], item["stack"], item["layer"], item["module"], _percent(item["relative_norm"]))
        for item in report["modules"]
    ]
    words = heat_map.Words(
        "Size of every module's change.", "‖W₁ - W₀‖ over ‖W₀‖ in %. Press a cell to see its spectrum.", "%", "%", "tuned-change"
    )
    return heat_map.heat_html(heat_map.heat_info(cells, "%"), words, chosen, "trained", 2)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def title_of(studio: Studio, tuned: str) -> str:
    return next((title for title, folder in tuned_choices(studio) if folder == tuned), Path(tuned).name)


def summary_html(report: dict[str, Any], name: str) -> str:
    modules = report["modules"]
    moved = [module for module in modules if module["frobenius"] > 0]
    title = markup.heading("", f"What {name} changed", f"Against {report['base']}, every linear layer.")
    if not moved:
        return title + markup.notice("These two models hold the same weights: nothing was changed.", "warn")
    most = max(moved, key=lambda module: module["relative_norm"] or 0)
    size = sum(module["frobenius"] ** 2 for module in moved) ** 0.5
    cells = [
        markup.stat("Modules changed", f"{len(moved):,}", f"of {len(modules):,}"),
        markup.stat("Median change", f"{100 * median(module['relative_norm'] or 0 for module in modules):.3g} %", "of a module's size"),
        markup.stat("Largest change", f"{100 * (most['relative_norm'] or 0):.3g} %", most["name"]),
        markup.stat("Size of the change", f"{size:.4g}", "all modules together"),
    ]
    return title + markup.stats(cells)


def module_values(studio: Studio, pair: tuple[str, str], picked: str) -> Iterator[list[Any]]:
    """What is being done, then values of Widgets.module_outputs."""
    layer, name = heat_map.split_picked(picked)
    yield [markup.heading("", name) + markup.waiting("Singular values of the whole matrix"), *figure.hidden()]
    try:
        report = studio.analysis.call("delta", base=pair[0], tuned=pair[1], layer=layer, module=name)
    except StudioError:
        yield [markup.heading("", name), *figure.hidden()]
        raise
    yield [module_html(report), *spectrum_values(report)]


def module_html(report: dict[str, Any]) -> str:
    ranks = report["ranks"]
    relative = "–" if report["relative_norm"] is None else f"{100 * report['relative_norm']:.3g} %"
    text = (
        f"ΔW is {report['rows']:,} × {report['columns']:,}, {relative} of W's size · effective rank {ranks['effective_rank']:.1f} · "
        f"stable rank {ranks['stable_rank']:.2f} · 90 % of its energy in {ranks['energy_rank']:,} · "
        f"{report['rank_above_noise']:,} above noise"
    )
    return markup.heading("", report["name"], text)


def spectrum_values(report: dict[str, Any]) -> list[Any]:
    info = plots.SpectrumInfo(list(report["singular_values"]), report["noise_floor"], [], "")
    sentence = (
        "How strongly the change acts along each of its directions, strongest first. A merged LoRA falls steeply after its rank, and what "
        "is left is the rounding of the weights; full fine-tuning moves every direction. Below the dashed line a direction is no stronger "
        "than noise whose median is the measured one."
    )
    rows = [(index, value, report["noise_floor"]) for index, value in enumerate(report["singular_values"], 1)]
    table = (("direction", "singular value", "noise floor"), rows)
    return figure.filled("tuned-spectrum", plots.spectrum_figure(info), "Singular values of the change.", sentence, table)
