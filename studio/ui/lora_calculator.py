"""LoRA's parameters counted: for one layer drawn to scale, and for every linear layer of a model."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.analysis.low_rank import LoraSize, lora_size
from studio.core.errors import AnalysisError, StudioError
from studio.core.units import show_count, show_share
from studio.models.shape import find_shape
from studio.ui import markup
from studio.ui.guard import guarded
from studio.ui.studio import Studio

LECTURE = (512, 1024, 50)
LECTURE_PRINTED = 5_242_880
INSTANT: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 8, "concurrency_id": "by-hand"}
MODEL_RANK = 8


def build(studio: Studio) -> None:
    with gr.Row(elem_classes="two-columns", equal_height=False):
        with gr.Column(scale=4, min_width=300):
            with gr.Row():
                inputs = gr.Number(LECTURE[0], label="Inputs", precision=0, min_width=90, elem_id="lora-inputs")
                outputs = gr.Number(LECTURE[1], label="Outputs", precision=0, min_width=90, elem_id="lora-outputs")
                rank = gr.Number(LECTURE[2], label="Rank r", precision=0, min_width=80, elem_id="lora-rank")
            gr.HTML('<div class="lab-gap"></div>', padding=False)
            model = gr.Dropdown(studio.model_choices(), value=None, label="Or a whole model", allow_custom_value=True, elem_id="lora-model",
                                info="Every linear layer of its blocks, at this rank.")  # fmt: skip
        with gr.Column(scale=9, min_width=340):
            layer = gr.HTML(layer_html(*LECTURE), padding=False, elem_id="lora-layer")
            whole = gr.HTML("", padding=False, elem_id="lora-whole")

    def count_model(name: str | None, r: float | None) -> str:
        try:
            return model_html(studio, name, r) if name else ""
        except StudioError as error:  # in place of the older figures, which are not those of what is typed now
            return markup.empty(error.message, error.hint)

    sizes = [inputs, outputs, rank]
    gr.on([box.input for box in sizes], guarded(layer_or_why), sizes, layer, trigger_mode="always_last", **INSTANT)
    gr.on([model.input, rank.input], guarded(count_model), [model, rank], whole, trigger_mode="always_last", **INSTANT)


def layer_or_why(inputs: float | None, outputs: float | None, r: float | None) -> str:
    """The layer's figures, or in their place what is wrong with the sizes: older figures do not stay beside new sizes."""
    try:
        return layer_html(inputs, outputs, r)
    except AnalysisError as error:
        return markup.empty(error.message, error.hint)


def layer_html(inputs: float | None, outputs: float | None, r: float | None) -> str:
    """One layer. Errors: AnalysisError for sizes that are none."""
    if not (inputs and outputs and r):
        return markup.empty("A size is missing", "Type how many inputs and outputs the layer has, and the rank.")
    size = lora_size(int(inputs), int(outputs), int(r))
    fewer = f"{size.times_fewer:.3g} × fewer" if size.times_fewer >= 1 else "more than the layer itself"
    cells = [
        markup.stat("The layer", f"{size.full:,}", f"{size.inputs:,} × {size.outputs:,}"),
        markup.stat("A", f"{size.a:,}", f"{size.r:,} × {size.inputs:,}"),
        markup.stat("B", f"{size.b:,}", f"{size.outputs:,} × {size.r:,}"),
        markup.stat("LoRA, A and B", f"{size.lora:,}", fewer, "good" if size.times_fewer > 1 else "bad"),
    ]
    notes = ""
    if (size.inputs, size.outputs) in (LECTURE[:2], LECTURE[1::-1]):
        notes = markup.notice(
            f"The lecture prints {LECTURE_PRINTED:,} for a 512 × 1024 layer: ten times too many. 512 · 1024 is {size.full:,}.", "warn"
        )
    if size.times_fewer <= 1:
        even = int(size.full // (size.inputs + size.outputs))
        notes += markup.notice(
            f"From r = {even + 1:,} on, the two factors hold more numbers than the layer. Choose less than that.", "warn"
        )
    text = "Blue is frozen, orange is trained; areas are to scale."
    return markup.heading("", "LoRA's parameters", text) + _drawing(size) + markup.stats(cells) + notes


def _drawing(size: LoraSize) -> str:
    """W, and B beside A, with areas to one scale."""
    scale = 150 / max(size.inputs, size.outputs)
    width, height, thin = size.inputs * scale, size.outputs * scale, size.r * scale
    left = width + 60
    top = 14
    right = left + thin + 10
    total = right + width + 20
    return (
        f'<div class="lora-drawing"><svg viewBox="0 0 {total:.0f} {height + 34:.0f}" style="max-width:{1.6 * total:.0f}px" role="img" '
        f'aria-label="a {size.outputs} by {size.inputs} weight beside its two low-rank factors">'
        f'<rect class="frozen" x="4" y="{top}" width="{max(width, 1):.2f}" height="{max(height, 1):.2f}" rx="2"/>'
        f'<text x="{4 + width / 2:.1f}" y="{top + height + 14:.1f}">W</text>'
        f'<text x="{width + 32:.1f}" y="{top + height / 2 + 5:.1f}">+</text>'
        f'<rect class="trained" x="{left:.1f}" y="{top}" width="{max(thin, 1):.2f}" height="{max(height, 1):.2f}" rx="1"/>'
        f'<text x="{left + thin / 2:.1f}" y="{top + height + 14:.1f}">B</text>'
        f'<rect class="trained" x="{right:.1f}" y="{top}" width="{max(width, 1):.2f}" height="{max(thin, 1):.2f}" rx="1"/>'
        f'<text x="{right + width / 2:.1f}" y="{top + thin + 14:.1f}">A</text></svg></div>'
    )


def model_html(studio: Studio, name: str, r: float | None) -> str:
    """Every linear layer of a model at one rank. Errors: AnalysisError, ModelNotFound."""
    if not r:
        raise AnalysisError("No rank was typed.", "Type a rank, such as 8.")
    shape = find_shape(name, studio.home)
    sizes = [(linear.short_name, lora_size(linear.in_features, linear.out_features, int(r))) for linear in shape.linears]
    rows = [
        (short, f"{size.inputs:,} × {size.outputs:,}", f"{size.full:,}", f"{size.lora:,}", f"{size.times_fewer:.3g} ×",
         f"{shape.layers * size.lora:,}")
        for short, size in sizes
    ]  # fmt: skip
    total = shape.layers * sum(size.lora for _, size in sizes)
    text = (
        f"{shape.layers} layers; on all of them LoRA of rank {int(r)} trains {total:,} parameters, "
        f"{show_share(total, shape.parameters + total)} of the model's {show_count(shape.parameters)} and its own."
    )
    headers = ("Module", "Inputs × outputs", "Weights", "LoRA", "Fewer", "LoRA in all layers")
    return markup.heading("", "In this model", text) + markup.table(headers, rows, "numbers")
