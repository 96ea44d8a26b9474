"""Quantization by hand: a few typed weights through every step, with real code books or with the lecture's."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.analysis.by_hand import LECTURE_WEIGHTS, HandWalk, parse_weights, printed_codes_that_are_not_nearest, walk_by_hand
from studio.ui import markup
from studio.ui.figure import csv_link
from studio.ui.guard import guarded

LECTURE = ", ".join(f"{weight:g}" for weight in LECTURE_WEIGHTS)
BOOKS = {"nf4": "NF4", "fp4": "FP4", "int4": "INT4", "teaching": "The lecture's"}


def build() -> None:
    with gr.Row(elem_classes="two-columns", equal_height=False):
        with gr.Column(scale=4, min_width=300):
            weights = gr.Textbox(
                LECTURE, label="Weights of one block", lines=3, elem_id="hand-weights", info="Up to 64 numbers. The lecture's six are here."
            )
            book = gr.Radio([(title, name) for name, title in BOOKS.items()], value="nf4", label="Code book", elem_id="hand-book")
            with gr.Row(elem_classes="actions"):
                go = gr.Button("Walk through", variant="primary", elem_id="hand-go")
                preset = gr.Button("The lecture's weights")
        with gr.Column(scale=9, min_width=340):
            steps = gr.HTML(walk_html(LECTURE, "nf4"), padding=False, elem_id="hand-steps")
    options: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 8, "concurrency_id": "by-hand"}
    gr.on([go.click, weights.submit, book.input], guarded(walk_html), [weights, book], steps, **options)
    preset.click(lambda: LECTURE, None, weights, **options).then(guarded(walk_html), [weights, book], steps, **options)


def walk_html(text: str, book: str) -> str:
    """All steps of typed weights. Errors: AnalysisError for what is no number."""
    weights = parse_weights(text or "")
    walk = walk_by_hand(weights, book)
    parts = [_scale_html(walk), _line_html(walk), _table_html(walk), _bytes_html(walk)]
    if weights == LECTURE_WEIGHTS:
        parts.append(_lecture_html(walk))
    return f'<div class="walk">{"".join(parts)}</div>'


def _scale_html(walk: HandWalk) -> str:
    if walk.codebook == "teaching":
        cells = [
            markup.stat("Mean, taken off", f"{walk.mean:.4f}"),
            markup.stat("Standard deviation, divided by", f"{walk.std:.4f}"),
        ]
        text = (
            "The lecture's way takes off the mean and divides by the standard deviation. "
            "Real NF4 does neither: it divides by the largest magnitude."
        )
    else:
        cells = [
            markup.stat("Largest magnitude (absmax)", f"{walk.absmax:.4g}"),
            markup.stat("Every weight is divided by it", f"÷ {walk.scale:.4g}"),
        ]
        text = "One number per block is kept beside the codes: the absolute maximum. After the division every weight lies between -1 and 1."
    cells.append(markup.stat("Error of the whole block", f"{100 * walk.relative_rmse:.2f} %", "root mean square, relative"))
    return markup.heading("1", "Scale", text) + markup.stats(cells)


def _line_html(walk: HandWalk) -> str:
    """The levels as ticks on a line and the weights as dots, each joined to its level."""
    values = [*walk.levels, *(step.normalised for step in walk.steps)]
    low, high = min(values), max(values)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return 20 + 960 * (value - low) / span

    ticks = "".join(
        f'<g class="level"><line x1="{place(level):.1f}" x2="{place(level):.1f}" y1="62" y2="84"/>'
        f'<text x="{place(level):.1f}" y="{100 + 15 * (rank % 2)}">{code}</text><title>code {code}: {level:.6f}</title></g>'
        for rank, (code, level) in enumerate(sorted(enumerate(walk.levels), key=lambda pair: pair[1]))
    )
    dots = "".join(
        f'<g class="weight"><line x1="{place(step.normalised):.1f}" y1="28" x2="{place(step.level):.1f}" y2="62"/>'
        f'<circle cx="{place(step.normalised):.1f}" cy="24" r="6"/>'
        f"<title>{step.weight:g} becomes {step.normalised:.4f}, nearest code {step.code}</title></g>"
        for step in walk.steps
    )
    drawing = (
        f'<div class="level-line"><svg viewBox="0 0 1000 122" role="img" aria-label="weights and their nearest levels">'
        f'<line class="axis" x1="20" x2="980" y1="73" y2="73"/>{ticks}{dots}</svg></div>'
    )
    return (
        markup.heading(
            "2", "Nearest level", "Dots are the scaled weights, ticks the levels with their codes. Each dot goes to the tick nearest to it."
        )
        + drawing
    )


def _table_html(walk: HandWalk) -> str:
    headers = ("Weight", "Scaled", "Code", "Bits", "Level", "Distance", "Second nearest", "Back again", "Error")
    rows = []
    for step in walk.steps:
        others = sorted((distance, code) for code, distance in enumerate(step.distances) if code != step.code)
        second = f"{others[0][1]} at {others[0][0]:.4f}"
        rows.append((f"{step.weight:g}", f"{step.normalised:.4f}", str(step.code), f"{step.code:04b}", f"{step.level:.4f}",
                     f"{step.distances[step.code]:.4f}", second, f"{step.dequantized:.4f}", f"{step.error:+.4f}"))  # fmt: skip
    link = f'<p class="downloads">{csv_link(f"by-hand-{walk.codebook}", headers, rows)}</p>'
    back = "level × deviation + mean" if walk.codebook == "teaching" else "level × absmax"
    return (
        markup.heading("3", "Code, and back", f"Back again is {back}; the error is what was lost.")
        + markup.table(headers, rows, "numbers")
        + link
    )


def _bytes_html(walk: HandWalk) -> str:
    codes = [step.code for step in walk.steps]
    pairs = [codes[index : index + 2] for index in range(0, len(codes), 2)]
    cells = "".join(
        f'<span class="byte"><b>0x{byte}</b><small>{" · ".join(f"{code:04b}" for code in pair)}</small></span>'
        for byte, pair in zip(walk.packed_hex, pairs, strict=True)
    )
    odd = " The odd last one shares its byte with the code of zero." if len(codes) % 2 else ""
    text = f"Two codes a byte, the first in the high half.{odd}"
    return markup.heading("4", "Packed", text) + f'<div class="bytes">{cells}</div>'


def _lecture_html(walk: HandWalk) -> str:
    if walk.codebook != "teaching":
        return markup.notice(
            "The lecture scales these weights by their mean and standard deviation and uses a code book of its own: choose it."
        )
    found = [
        f"For {item.weight:g} (scaled {item.normalised:.3f}) it prints code {item.printed_code}, {item.printed_distance:.3f} away; "
        f"code {item.nearest_code} is nearer, {item.nearest_distance:.3f} away."
        for item in printed_codes_that_are_not_nearest()
    ]
    return markup.notice(" ".join(["Two codes printed in the lecture are not the nearest levels.", *found]), "warn")
