"""Rank by hand: a typed matrix reduced row by row, neurons that follow from others, a picture of low rank, LoRA's parameters counted."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.analysis.low_rank import neuron_example
from studio.analysis.rank import RowReduction, parse_matrix, reduce_rows
from studio.core.errors import AnalysisError
from studio.ui import lora_calculator, low_rank_picture, markup
from studio.ui.guard import guarded
from studio.ui.studio import Studio

LECTURE = "1 2 3\n2 4 6\n1 1 1"
OUTPUTS, INPUTS, RANK = 100, 64, 10
INSTANT: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 8, "concurrency_id": "by-hand"}


def build(studio: Studio, tab: gr.Tab) -> None:
    """Four exercises, one under the other; `tab` is the sub-tab, whose selection draws the picture."""
    with gr.Row(elem_classes="two-columns", equal_height=False):
        with gr.Column(scale=4, min_width=300):
            told = "Rows on lines of their own; 1/2, 0.5 and 5e-1 stay exact. Up to 12 × 12. The lecture's is here."
            matrix = gr.Textbox(LECTURE, label="A matrix", lines=4, max_lines=12, elem_id="hand-matrix", info=told)
            reduce = gr.Button("Reduce", variant="primary", elem_id="hand-reduce")
        with gr.Column(scale=9, min_width=340):
            steps = gr.HTML(reduction_html(LECTURE), padding=False, elem_id="hand-reduction")
    gr.HTML('<hr class="lab-rule">', padding=False)
    with gr.Row(elem_classes="two-columns", equal_height=False):
        with gr.Column(scale=4, min_width=300):
            rank = gr.Slider(1, INPUTS, value=RANK, step=1, label=f"Rank of a {OUTPUTS} × {INPUTS} weight", elem_id="neuron-rank",
                             info="How many of a layer's outputs are independent.")  # fmt: skip
        with gr.Column(scale=9, min_width=340):
            neurons = gr.HTML(neurons_html(RANK), padding=False, elem_id="neurons")
    gr.HTML('<hr class="lab-rule">', padding=False)
    low_rank_picture.build(tab)
    gr.HTML('<hr class="lab-rule">', padding=False)
    lora_calculator.build(studio)
    reduce.click(guarded(reduced_or_why), matrix, steps, **INSTANT)
    rank.input(guarded(neurons_html), rank, neurons, trigger_mode="always_last", **INSTANT)


def reduced_or_why(text: str) -> str:
    """The reduction, or in its place what is wrong with the matrix: an older result does not stay beside a new matrix."""
    try:
        return reduction_html(text)
    except AnalysisError as error:
        return markup.empty(error.message, error.hint)


def reduction_html(text: str) -> str:
    """Every step of a typed matrix. Errors: AnalysisError for letters, ragged rows, too many numbers."""
    reduction = reduce_rows(parse_matrix(text or ""))
    parts = [_step_html("The matrix", "", reduction.matrix, None)]
    before = reduction.matrix
    for step in reduction.steps:
        parts.append(_step_html(step.operation, step.reason, step.matrix, before))
        before = step.matrix
    if not reduction.steps:
        parts.append('<p class="how">It is in reduced form already: there is nothing to do.</p>')
    head = markup.heading("", "Rank by row reduction", "Entries that a step changed are orange. Fractions stay exact.")
    return f'{head}<div class="matrices">{"".join(parts)}</div>{_reduction_stats(reduction)}'


def _step_html(title: str, reason: str, matrix: tuple[tuple[str, ...], ...], before: tuple[tuple[str, ...], ...] | None) -> str:
    rows = ""
    for i, row in enumerate(matrix):
        cells = "".join(
            f'<td class="{"changed" if before is not None and before[i][j] != entry else ""}">{markup.escape(entry)}</td>'
            for j, entry in enumerate(row)
        )
        rows += f"<tr>{cells}</tr>"
    caption = f"<figcaption><b>{markup.escape(title)}</b><span>{markup.escape(reason)}</span></figcaption>"
    return f'<figure class="matrix">{caption}<table>{rows}</table></figure>'


def _reduction_stats(reduction: RowReduction) -> str:
    rows, columns = len(reduction.matrix), len(reduction.matrix[0])
    full = "full rank" if reduction.rank == reduction.full_rank else f"full rank would be {reduction.full_rank}"
    pivots = ", ".join(str(column + 1) for column in reduction.pivot_columns) or "none"
    least = 1e-12 * reduction.singular_values[0]
    values = ", ".join(f"{value:.4g}" if value > least else "0" for value in reduction.singular_values)
    cells = [
        markup.stat("Rank", str(reduction.rank), full),
        markup.stat("Nullity", str(reduction.nullity), f"{columns} columns less the rank"),
        markup.stat("Pivot columns", pivots),
        markup.stat("Singular values", values, "as many above zero as the rank"),
    ]
    if reduction.rank == reduction.full_rank:
        text = f"Every one of its min({rows}, {columns}) = {reduction.full_rank} directions counts."
    else:
        text = f"Whatever goes in, what comes out lies in a space of {reduction.rank} dimensions: {reduction.rank} numbers say all of it."
    return markup.stats(cells) + markup.notice(text)


def neurons_html(rank: float) -> str:
    """100 neurons as dots: orange ones are independent, each blue one is a sum of them."""
    example = neuron_example(OUTPUTS, INPUTS, int(rank))
    coefficients = dict(zip(example.dependent, example.coefficients, strict=True))
    dots = "".join(_neuron(index, coefficients.get(index), example.independent) for index in range(example.outputs))
    text = (
        f"A layer with {OUTPUTS} outputs whose weight has rank {example.rank}: {len(example.independent)} outputs (orange) are "
        f"independent, the other {len(example.dependent)} (blue) are sums of them. Point at one to see which."
    )
    check = f"Rebuilt from the orange ones, the blue rows of the weight are at most {example.largest_error:.1e} off."
    return (
        markup.heading("", "Neurons that follow from others", text) + '<div class="neurons"><svg viewBox="0 0 500 130" role="img" '
        f'aria-label="{len(example.independent)} of {OUTPUTS} neurons are independent">'
        f'{dots}</svg></div><p class="how">{check}</p>'
    )


def _neuron(index: int, coefficients: tuple[float, ...] | None, independent: tuple[int, ...]) -> str:
    x, y = 14 + 24.8 * (index % 20), 14 + 25 * (index // 20)
    if coefficients is None:
        told = f"neuron {index + 1}: independent"
    else:
        largest = sorted(zip(coefficients, independent, strict=True), key=lambda pair: -abs(pair[0]))
        terms = " ".join(f"{value:+.2f}·n{other + 1}" for value, other in largest[:4])
        told = f"neuron {index + 1} = {terms}{' …' if len(largest) > 4 else ''}"
    kind = "independent" if coefficients is None else "dependent"
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="8.5"><title>{told}</title></circle>'
