"""Compare two adapters: which directions of one module they share, beside random matrices of the same shape."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.core.errors import AnalysisError
from studio.plots import similarity
from studio.ui import adapter_choice, figure, markup
from studio.ui.guard import guarded
from studio.ui.studio import Studio

KINDS = [("A, as in the paper", "A"), ("The update B A", "update")]


def build(studio: Studio, tab: gr.Tab) -> None:
    with gr.Row(elem_classes="two-columns", equal_height=False):
        with gr.Column(scale=4, min_width=300):
            first = gr.Dropdown([], label="One", allow_custom_value=True, elem_id="compare-first", info="A run or an adapter folder.")
            second = gr.Dropdown(
                [], label="The other", allow_custom_value=True, elem_id="compare-second", info="Another rank or seed, same base."
            )
            module = gr.Dropdown(
                [], label="Module", allow_custom_value=True, elem_id="compare-module", info="One that both adapters change."
            )
            kind = gr.Radio(KINDS, value="A", label="Directions of")
            go = gr.Button("Compare", variant="primary", elem_id="compare-go")
        with gr.Column(scale=9, min_width=340):
            action = "Choose two adapters of one base model, such as two ranks or two seeds of the same run, and press Compare."
            verdict = gr.HTML(markup.empty("Nothing compared yet", action), padding=False, elem_id="compare-verdict")
            drawn = figure.build("subspace-similarity")

    def listed(one: str | None, other: str | None, name: str | None, kind: str) -> list[Any]:
        choices = adapter_choice.adapter_choices(studio)
        found = [value for _, value in choices]
        chosen = one, other
        one = one or (found[0] if found else None)
        other = other or next((value for value in found if value != one), None)
        pair = [adapter_choice.relist(choices, *change) for change in zip(chosen, (one, other), strict=True)]
        if name or not (one and other):
            return [*pair, *[gr.skip()] * 4]
        try:
            return [*pair, *compared(studio, (one, other), "", kind)]
        except AnalysisError as error:  # said in the page: the person has pressed nothing yet
            return [*pair, gr.skip(), markup.empty(error.message, error.hint), *figure.hidden()]

    def compare(one: str | None, other: str | None, name: str | None, kind: str) -> list[Any]:
        return compared(studio, (one or "", other or ""), name or "", kind)

    inputs, outputs = [first, second, module, kind], [module, verdict, *drawn.outputs]
    quiet = figure.quiet()
    tab.select(guarded(listed), inputs, [first, second, *outputs], **quiet)
    go.click(guarded(compare), inputs, outputs, **quiet)
    gr.on([module.input, kind.input], guarded(compare), inputs, outputs, **quiet)


def compared(studio: Studio, pair: tuple[str, str], name: str, kind: str) -> list[Any]:
    """The module's choices, the verdict in words, and the figure. Errors: AnalysisError."""
    if not all(pair):
        raise AnalysisError("Two adapters are needed.", "Train a second run with another rank or seed, or type the path of a folder.")
    reports = [studio.analysis.call("spectrum", adapter=adapter) for adapter in pair]
    layers = {module["name"]: module["layer"] for module in reports[0]["modules"]}
    both = [module["name"] for module in reports[1]["modules"] if module["name"] in layers]
    if not both:
        raise AnalysisError("These adapters change no module in common.", "Choose two that were trained on the same base model.")
    name = name if name in both else next((item for item in both if item.endswith("q_proj")), both[0])
    report = studio.analysis.call("compare", first=pair[0], second=pair[1], layer=layers[name], module=name, kind=kind)
    info = similarity.similarity_info(report, *(adapter_choice.title_of(studio, adapter) for adapter in pair))
    sentence = (
        "Each cell says how much of the first i directions of one lies in the first j of the other: 1 is all of it. Brightness beyond that "
        "of the random control on the right is what both learned alike."
    )
    rows = [(i, j, value, report["control"][i - 1][j - 1]) for i, row in enumerate(report["phi"], 1) for j, value in enumerate(row, 1)]
    drawn = figure.filled(
        "subspace-similarity", similarity.similarity_figure(info), "Subspace similarity φ.", sentence, (("i", "j", "phi", "random"), rows)
    )
    return [gr.update(choices=both, value=name), verdict_html(report, name), *drawn]


def verdict_html(report: dict[str, Any], name: str) -> str:
    """The similarity in a few numbers and one sentence."""
    top, random_top = report["phi"][0][0], report["control"][0][0]
    whole, random_whole = report["phi"][-1][-1], report["control"][-1][-1]
    cells = [
        markup.stat("Strongest direction shared", f"{top:.3f}", f"random: {random_top:.3f}"),
        markup.stat("All directions", f"{whole:.3f}", f"random: {random_whole:.3f}"),
        markup.stat("Ranks compared", f"{report['r1']} and {report['r2']}", f"in {report['dimension']:,} dimensions"),
    ]
    if top > 0.5:
        text = "Both adapters found much the same strongest direction. The paper reads this as a sign that a small rank is enough."
    elif whole > 2 * random_whole:
        text = "They share more than chance would give, but not one strongest direction."
    else:
        text = "They share no more than chance would give: different directions served as well, or little was learned yet."
    return markup.heading("", name) + markup.stats(cells) + markup.notice(text, "info", "Hypothesis:")
