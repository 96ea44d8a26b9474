"""What a quantization error means: one layer's output on real text and the model's loss under each type, measured when asked for.

A process of its own holds the model while it is measured, and is ended afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from studio.core.errors import AnalysisError, StudioError
from studio.jobs import store
from studio.jobs.worker import Worker
from studio.ui import heat_map, markup
from studio.ui.figure import csv_link
from studio.ui.guard import guarded
from studio.ui.studio import Studio

TITLES = {"nf4": "NF4", "fp4": "FP4", "int4": "INT4", "int8": "INT8"}
NOTICEABLE = 0.01
"""Difference of two losses, in nats, that these few tokens can show."""


def build(studio: Studio, inputs: list[Any]) -> None:
    """Button and answer; `inputs` are model, block size, double quantization and the module looked at."""
    gr.HTML(
        markup.heading("", "What the error does", "The layer's output on real text, and the model's loss, under every type."), padding=False
    )
    with gr.Row(elem_classes="actions"):
        go = gr.Button("Measure on real text (a minute or two)", size="sm", elem_id="effect-button")
    view = gr.HTML("", padding=False, elem_id="quantization-effect")
    handler = guarded(lambda *values: measure(studio, *values))

    def stream(*values: Any) -> Iterator[str]:
        yield from handler(*values)

    go.click(stream, inputs, view, show_progress="hidden", concurrency_limit=1, concurrency_id="effect")


def measure(studio: Studio, model: str, block_size: int, double_quant: bool, picked: str) -> Iterator[str]:
    """Progress, then the table. Errors: AnalysisError while a run needs the memory or no module was chosen; the worker's own."""
    layer, module = heat_map.split_picked(picked)
    if not module:
        raise AnalysisError("No module is looked at yet.", "Press Measure above first, then a cell of the heat map.")
    if any(run.status.is_active for run in store.list_runs(studio.home)):
        raise AnalysisError("A run is training and needs the memory.", "Wait until it has ended, or stop it.")
    worker = Worker("studio.analysis.effect", studio.home.root / "logs" / "effect.log", arguments=["--home", str(studio.home.root)])
    asked = {"model": model, "layer": layer, "module": module, "block_size": int(block_size), "double_quant": bool(double_quant)}
    yield markup.waiting("Starting")
    try:
        for event in worker.stream("effect", **asked):
            if event.name == "done":
                worker.close(grace_s=0)  # before the answer, which the memory's return would else keep from ending
                yield effect_html(event.data)
            else:
                yield markup.waiting(str(event.data))
    except StudioError:
        yield ""  # no bar that moves for ever; the toast says why
        raise
    finally:
        worker.close(grace_s=0)


def effect_html(data: dict[str, Any]) -> str:
    """Errors and losses of each type, and in words how much was lost."""
    headers = ("Type", "Error of the weights", "Error of the output", "Loss of the model", "More than as stored")
    rows = [
        (TITLES[name], f"{100 * item['weight_error']:.2f} %", f"{100 * item['output_error']:.2f} %", f"{item['loss']:.4f}",
         f"{item['loss'] - data['loss']:+.4f}")
        for name, item in data["types"].items()
    ]  # fmt: skip
    stored = ("as stored", "0 %", "0 %", f"{data['loss']:.4f}", "")
    link = csv_link("quantization-effect", headers, [stored, *rows])
    told = (
        f"Errors are of {data['module']} alone, relative, on what really flows into it; losses are of the whole model with every linear "
        f"layer quantized, in nats per token, on {data['tokens']:,} answer tokens of {data['rows']} rows of the starter dataset."
    )
    table = markup.table(headers, [stored, *rows], "numbers")
    caption = f'<div class="lab-caption"><p>{markup.escape(told)}</p><span class="downloads">{link}</span></div>'
    return markup.notice(verdict(data)) + table + caption


def verdict(data: dict[str, Any]) -> str:
    """Whether NF4 lost quality here, as a measured sentence."""
    item = data["types"].get("nf4")
    if item is None:
        return "NF4 was not measured."
    more = item["loss"] - data["loss"]
    if more < NOTICEABLE:
        return f"NF4 loses no quality that these tokens can show: the loss changes by {more:+.4f} nats."
    return (
        f"NF4 does lose quality here: the loss rises by {more:.3f} nats, from {data['loss']:.3f} to {item['loss']:.3f}. "
        "“No loss of quality” was measured on models of billions of weights and after training an adapter; small models suffer more."
    )
