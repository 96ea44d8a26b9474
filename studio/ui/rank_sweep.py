"""A rank sweep: the same run with r = 1, 2, 4, 8, 64, queued one after the other, and their losses drawn against rank."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.core.errors import AnalysisError
from studio.core.records import RunStatus
from studio.core.spec import LoraSpec, RunSpec
from studio.jobs import runner, store
from studio.plots import rank_sweep as plots
from studio.ui import adapter_choice, figure, markup
from studio.ui.guard import guarded
from studio.ui.studio import Studio

RANKS = (1, 2, 4, 8, 64)


def build(studio: Studio, tab: gr.Tab) -> None:
    with gr.Row(elem_classes="two-columns", equal_height=False):
        with gr.Column(scale=4, min_width=300):
            run = gr.Dropdown(
                [], label="Like this run", elem_id="sweep-run", info="Everything but the rank stays as it is, alpha in proportion."
            )
            go = gr.Button(f"Queue r = {', '.join(map(str, RANKS))}", variant="primary", elem_id="sweep-go")
            again = gr.Button("Look again", size="sm")
        with gr.Column(scale=9, min_width=340):
            told = gr.HTML("", padding=False, elem_id="sweep-told")
            drawn = figure.build("rank-sweep")

    def look(chosen: str | None) -> list[Any]:
        choices = [(f"{item.name} · {item.created:%d %b %H:%M}", item.id) for item in store.list_runs(studio.home) if item.family == "lora"]
        there = {value for _, value in choices}
        wanted = chosen if chosen in there else choices[0][1] if choices else None
        return [adapter_choice.relist(choices, chosen, wanted), *shown(studio, wanted)]

    def queue(chosen: str | None) -> list[Any]:
        queue_sweep(studio, chosen or "")
        gr.Info(f"{len(RANKS)} runs are queued; the Runs tab shows them.", duration=5)
        return look(chosen)

    outputs, quiet = [run, told, *drawn.outputs], figure.quiet("sweep")
    gr.on([tab.select, again.click, run.input], guarded(look), run, outputs, **quiet)
    go.click(guarded(queue), run, outputs, **quiet)


def queue_sweep(studio: Studio, run_id: str) -> list[str]:
    """Queue a run of each rank like the one named. Errors: AnalysisError, RunNotFound, SpecError. Returns the new ids."""
    if not run_id:
        raise AnalysisError("No run was chosen.", "Train a LoRA run first, then sweep its rank.")
    studio.refuse_while_calibrating()
    spec = store.read_run(studio.home, run_id).spec
    return [runner.start_run(studio.home, with_rank(spec, rank)) for rank in RANKS]


def with_rank(spec: RunSpec, rank: int) -> RunSpec:
    """The run with another rank; alpha / r stays. Errors: AnalysisError for another family than LoRA."""
    if not isinstance(spec.method, LoraSpec):
        raise AnalysisError("Only LoRA has a rank to sweep.", "Choose a LoRA run.")
    data = spec.to_json()
    data["method"] = {**data["method"], "rank": rank, "alpha": spec.method.alpha * rank / spec.method.rank, "rank_pattern": {}}
    data["name"] = f"{(spec.name or 'sweep').partition(' r=')[0]} r={rank}"
    return RunSpec.parse(data)


def alike(first: RunSpec, second: RunSpec) -> bool:
    """The two runs differ in nothing but rank, alpha and name."""
    parts = []
    for spec in (first, second):
        data = spec.to_json()
        data.pop("name")
        parts.append({**data, "method": {**data["method"], "rank": 0, "alpha": 0, "rank_pattern": {}}})
    return parts[0] == parts[1]


def points(studio: Studio, run_id: str) -> list[plots.Point]:
    """Finished runs like the one named, by rank."""
    spec = store.read_run(studio.home, run_id).spec
    found = []
    for item in store.list_runs(studio.home):
        if item.status is not RunStatus.FINISHED or item.eval_loss_after is None or item.family != "lora":
            continue
        other = store.read_run(studio.home, item.id).spec
        if isinstance(other.method, LoraSpec) and alike(spec, other):
            found.append(plots.Point(other.method.rank, item.eval_loss_after, item.trainable_parameters, item.name))
    return sorted(found)


def shown(studio: Studio, run_id: str | None) -> list[Any]:
    found = points(studio, run_id) if run_id else []
    if len({point.rank for point in found}) < 2:
        text = "A sweep needs at least two finished runs that differ in rank only. Queue one: it takes as long as five such runs."
        return [markup.empty("No sweep to draw yet", text), *figure.hidden()]
    best = min(found, key=lambda point: point.loss)
    told = f"The lowest held-out loss is {best.loss:.4f}, at r = {best.rank}. Differences as small as between two seeds say nothing."
    table = (("rank", "held-out loss", "trainable parameters", "run"), found)
    sentence = "Held-out loss against rank, all else equal. Where the line is flat, more rank buys nothing."
    return [
        markup.notice(told, "info", "Measured:"),
        *figure.filled("rank-sweep", plots.sweep_figure(found), "Loss against rank.", sentence, table),
    ]
