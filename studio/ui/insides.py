"""Inside an adapter or a prefix: which bottleneck units a prompt wakes and how much they add, or how much attention a prefix draws.

A process of its own loads the model, reads the prompt once and is ended: its memory is back before the answer is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any, NamedTuple

import gradio as gr

from studio.core.errors import AnalysisError, StudioError
from studio.jobs import store
from studio.jobs.worker import Worker
from studio.plots import insides as plots
from studio.ui import adapter_choice, figure, markup
from studio.ui.figure import Figure
from studio.ui.guard import guarded
from studio.ui.studio import Studio

FAMILIES = ("adapter", "prefix")
PROMPT = "Write a Python function that returns the sum of a list of numbers."
SMALL = 0.05
"""Of a head's attention: below it the head is called one that passes the prefix by."""


class Widgets(NamedTuple):
    """Where the answer goes; figures of the other family stay hidden."""

    told: gr.HTML
    mass: Figure
    units: Figure
    norms: Figure

    @property
    def outputs(self) -> list[Any]:
        return [self.told, *self.mass.outputs, *self.units.outputs, *self.norms.outputs]


def build(studio: Studio, tab: gr.Tab) -> None:
    """The sub-tab's content; `tab` is itself, whose selection lists the runs."""
    with gr.Row(elem_classes="two-columns", equal_height=False):
        with gr.Column(scale=4, min_width=300):
            run = gr.Dropdown([], label="Run or adapter", allow_custom_value=True, elem_id="insides-run",
                              info="A run of Adapters or Prefix-Tuning, or the path of a folder with such an adapter.")  # fmt: skip
            prompt = gr.Textbox(PROMPT, label="Prompt", lines=4, elem_id="insides-prompt", info="What the model reads while it is watched.")
            go = gr.Button("Look inside", variant="primary", elem_id="insides-go")
        with gr.Column(scale=9, min_width=340):
            told = gr.HTML(nothing_html(), padding=False, elem_id="insides-told")
            widgets = Widgets(told, *(figure.build(name) for name in ("prefix-mass", "bottleneck-units", "adapter-norms")))

    def listed(chosen: str | None) -> Any:
        choices = adapter_choice.adapter_choices(studio, FAMILIES)
        return adapter_choice.relist(choices, chosen, chosen or (choices[0][1] if choices else None))

    handler = guarded(lambda chosen, text: looked_into(studio, chosen or "", text or ""))

    def stream(chosen: str | None, text: str | None) -> Iterator[list[Any]]:
        yield from handler(chosen, text)

    tab.select(guarded(listed), run, run, **figure.quiet())
    alone = {**figure.quiet("effect"), "concurrency_limit": 1, "trigger_mode": "always_last"}
    go.click(stream, [run, prompt], widgets.outputs, **alone)


def nothing_html() -> str:
    action = (
        "Choose a run of Adapters or Prefix-Tuning and press Look inside. Where there is none yet, train one on the Train tab, or type the "
        "path of a folder with such an adapter."
    )
    return markup.empty("Nothing looked at yet", action)


def looked_into(studio: Studio, chosen: str, prompt: str) -> Iterator[list[Any]]:
    """Progress, then values of Widgets.outputs. Errors: AnalysisError while a run needs the memory; the worker's own."""
    if any(run.status.is_active for run in store.list_runs(studio.home)):
        raise AnalysisError("A run is training and needs the memory.", "Wait until it has ended, or stop it.")
    worker = Worker("studio.analysis", studio.home.root / "logs" / "insides.log", arguments=["--home", str(studio.home.root)])
    yield [markup.waiting("Starting"), *figure.hidden() * 3]
    try:
        for event in worker.stream("insides", adapter=chosen, prompt=prompt):
            if event.name == "done":
                worker.close(grace_s=0)  # before the answer, which the memory's return would else keep from ending
                yield shown(event.data, adapter_choice.title_of(studio, chosen))
            else:
                yield [markup.waiting(str(event.data)), *[gr.skip()] * 6]
    except StudioError:
        yield [nothing_html(), *[gr.skip()] * 6]  # no bar that moves for ever; the toast says why
        raise
    finally:
        worker.close(grace_s=0)


def shown(report: dict[str, Any], title: str) -> list[Any]:
    """Values of Widgets.outputs for a report of either family."""
    if report["family"] == "prefix":
        return [prefix_html(report, title), *mass_values(report), *figure.hidden(), *figure.hidden()]
    return [adapter_html(report, title), *figure.hidden(), *units_values(report), *norms_values(report)]


def adapter_html(report: dict[str, Any], title: str) -> str:
    """How many units woke, how much was added, and what that may mean."""
    info = plots.units_info(report)
    most = max(report["places"], key=lambda place: place["ratio"] or 0)
    mean = fmean(place["ratio"] or 0 for place in report["places"])
    silent, always = 100 * info.silent / info.total, 100 * info.always / info.total
    cells = [
        markup.stat("Prompt", f"{report['tokens']:,}", "tokens, chat format included"),
        markup.stat("Silent units", f"{info.silent:,}", f"of {info.total:,}: {silent:.1f} %"),
        markup.stat("Always active", f"{info.always:,}", f"{always:.1f} %: there the adapter is linear"),
        markup.stat("Added to h", f"{100 * mean:.3g} %", "mean of all places"),
        markup.stat("Most added", f"{100 * (most['ratio'] or 0):.3g} %", f"layer {most['layer']}, {plots.kind_of(most['place'])}"),
    ]
    return (
        markup.heading("", f"Inside {title}", _on(report)) + markup.stats(cells) + markup.notice(_unit_advice(info), "info", "Hypothesis:")
    )


def _unit_advice(info: plots.UnitsInfo) -> str:
    if info.silent > info.total / 4:
        return "Over a quarter of the units sleep through this prompt. If they do so on other prompts too, a smaller bottleneck may do."
    return "Most units take part in this prompt, so the bottleneck's width is in use. Other prompts may wake others."


def prefix_html(report: dict[str, Any], title: str) -> str:
    """How much attention the prefix draws, where most, and what that may mean."""
    values = [value for row in report["mass"] for value in row]
    row, head = plots.largest(report["mass"])
    passing = sum(value < SMALL for value in values)
    cells = [
        markup.stat("Prompt", f"{report['tokens']:,}", "tokens, chat format included"),
        markup.stat("Prefix", f"{report['virtual_tokens']:,}", "virtual tokens before it"),
        markup.stat("Attention on the prefix", f"{100 * fmean(values):.1f} %", f"spread evenly: {100 * report['even_share']:.1f} %"),
        markup.stat("Strongest head", f"{100 * report['mass'][row][head]:.1f} %", f"layer {report['layers'][row]}, head {head}"),
        markup.stat("Pass it by", f"{passing:,}", f"of {len(values):,} heads: under {100 * SMALL:.0f} %"),
    ]
    told = (
        "Heads near 100 % need not read the prefix: many heads rest on whatever comes first when they have nothing to add (attention "
        "sinks, arXiv 2309.17453). Heads in between are where the prefix can steer."
    )
    return markup.heading("", f"Inside {title}", _on(report)) + markup.stats(cells) + markup.notice(told, "info", "Hypothesis:")


def _on(report: dict[str, Any]) -> str:
    return f"{report['adapter']} · on {report['base']}"


def units_values(report: dict[str, Any]) -> list[Any]:
    info = plots.units_info(report)
    thinned = " Very wide rows are drawn thinned out." if len(report["places"][0]["active"]) > plots.DRAWN_UNITS else ""
    sentence = (
        "One row a layer, one cell a unit, sorted: the darker, the more tokens of the prompt it is active on. Grey units are silent on "
        f"every token, the darkest active on all.{thinned}"
    )
    rows = [(layer, kind, *counts) for kind, part in info.rows.items() for layer, counts in zip(part.layers, part.counts, strict=True)]
    table = (("layer", "place", *(f"unit {rank}" for rank in range(1, len(rows[0]) - 1))), rows)
    return figure.filled("bottleneck-units", plots.units_figure(info), "Active units.", sentence, table)


def norms_values(report: dict[str, Any]) -> list[Any]:
    sentence = (
        "h is what the frozen block gives, h_adapter what the adapter adds to it. The axis is logarithmic: the further apart the lines, "
        "the smaller the adapter's part; one step of the axis is a factor of ten."
    )
    names = ("layer", "place", "hidden_norm", "change_norm", "ratio")
    table = (
        ("layer", "place", "norm of h", "norm of h_adapter", "mean ratio"),
        [[place[name] for name in names] for place in report["places"]],
    )
    return figure.filled("adapter-norms", plots.norms_figure(plots.norms_info(report)), "What is added.", sentence, table)


def mass_values(report: dict[str, Any]) -> list[Any]:
    sentence = (
        f"One cell a head: the part of its attention that goes to the prefix, mean over the prompt's tokens. Attention spread evenly over "
        f"all that a token sees would give {100 * report['even_share']:.1f} %."
    )
    rows = [(layer, head, value) for layer, row in zip(report["layers"], report["mass"], strict=True) for head, value in enumerate(row)]
    info = plots.mass_info(report)
    return figure.filled("prefix-mass", plots.mass_figure(info), "Attention on the prefix.", sentence, (("layer", "head", "share"), rows))
