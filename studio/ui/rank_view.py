"""The rank laboratory's answers, laid out: an adapter's summary and advice, one module's spectrum, growth, and what lies in the base."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import gradio as gr

from studio.plots import spectrum as plots
from studio.ui import figure, heat_map, markup

MEASURES = {
    "effective_rank": "Effective rank", "stable_rank": "Stable rank", "energy_rank": "90 % of energy", "rank_above_noise": "Above noise",
    "frobenius": "Size",
}  # fmt: skip
EXPLAINED = {
    "effective_rank": "As many equal directions would be as evenly spread: exp of the entropy of the singular values.",
    "stable_rank": "The squared size of the update over that of its strongest direction; 1 when one direction does everything.",
    "energy_rank": "How many directions hold 90 % of the update's squared size.",
    "rank_above_noise": "How many directions are stronger than random factors of the same size would make them.",
    "frobenius": "Frobenius norm of the update ΔW: how far the module was moved.",
}


class Look(NamedTuple):
    """What is looked at: an adapter at a step of its training, one measure in the heat map, one module."""

    adapter: str
    step: int
    measure: str
    picked: str


def first_module(report: dict[str, Any]) -> str:
    """The module whose update is largest, as heat_map.picked writes it."""
    largest = max(report["modules"], key=lambda module: module["ranks"]["frobenius"])
    return f"{'' if largest['layer'] is None else largest['layer']}|{largest['name']}"


def values(report: dict[str, Any], measure: str, picked: str) -> list[Any]:
    """Values of rank.Widgets.outputs."""
    module = find_module(report, picked)
    return [
        heat(report, measure, module["name"]), summary_html(report), module_html(module), *spectrum_values(report, module),
        *growth_values(report), "", gr.update(visible=True),
    ]  # fmt: skip


def find_module(report: dict[str, Any], picked: str) -> dict[str, Any]:
    """The module chosen in the heat map; the first where another adapter does not change it."""
    name = heat_map.split_picked(picked)[1]
    return next((item for item in report["modules"] if item["name"] == name), report["modules"][0])


def heat(report: dict[str, Any], measure: str, chosen: str) -> str:
    cells = [heat_map.Cell(item["name"], "", item["layer"], item["module"], _value(item, measure)) for item in report["modules"]]
    title = f"{MEASURES[measure]} of every module's update."
    words = heat_map.Words(title, f"{EXPLAINED[measure]} Press a cell to see its spectrum.", "", "", f"rank-{measure}")
    digits = 0 if measure in ("energy_rank", "rank_above_noise") else 2 if measure == "frobenius" else 1
    return heat_map.heat_html(heat_map.heat_info(cells, MEASURES[measure].lower()), words, chosen, "trained", digits)


def _value(module: dict[str, Any], measure: str) -> float:
    return float(module[measure] if measure == "rank_above_noise" else module["ranks"][measure])


def summary_html(report: dict[str, Any]) -> str:
    """What the adapter is, in figures, and what its spectra suggest."""
    modules = report["modules"]
    r = report["r"]
    used = median(module["ranks"]["effective_rank"] for module in modules)
    above = median(module["rank_above_noise"] for module in modules)
    size = sum(module["ranks"]["frobenius"] ** 2 for module in modules) ** 0.5
    scaling = modules[0]["scaling"]
    rule = "α / √r" if report["rslora"] else "α / r"
    so_far = " so far" if report.get("training") else ""
    where = f"{so_far}, at step {report['step']:,}" if report.get("step") is not None else so_far
    cells = [
        markup.stat("Rank r", str(r), f"α = {report['alpha']:g}, scaling {rule} = {scaling:.4g}"),
        markup.stat("Modules", f"{len(modules):,}", "DoRA" if report["dora"] else "plain LoRA"),
        markup.stat("Median effective rank", f"{used:.2f}", f"of {r}"),
        markup.stat("Median above noise", f"{above:g}", "directions"),
        markup.stat("Size of the update", f"{size:.4g}", "all modules together"),
    ]
    dora = (
        "This is DoRA, which also rescales each row of the base: the values are those of s B A. Compare with the base for its whole change."
    )
    return (
        markup.heading("", f"What {report['title']} learned{where}", f"On {Path(report['base_model']).name}.")
        + markup.stats(cells) + _advice_html(report) + (markup.notice(dora, "warn") if report["dora"] else "")
    )  # fmt: skip


def _advice_html(report: dict[str, Any]) -> str:
    """The hypotheses; of a run that is being trained only what it learned so far, and no verdict on one that has not begun."""
    training = report.get("training", False)
    if training and all(item["numbers"].get("changed") == 0 for item in report["advice"]):
        return markup.notice("The run is still training, and no step was saved after the first. Come back to this tab later.", "info",
                             "Nothing learned yet.")  # fmt: skip
    told = "Hypothesis, so far:" if training else "Hypothesis:"
    return "".join(markup.notice(f"{item['hypothesis']}\nEvidence: {item['evidence']}", "info", told) for item in report["advice"])


def module_html(module: dict[str, Any]) -> str:
    ranks = module["ranks"]
    text = (
        f"ΔW is {module['rows']:,} × {module['columns']:,} of rank at most {module['r']} · effective rank {ranks['effective_rank']:.2f} · "
        f"stable rank {ranks['stable_rank']:.2f} · 90 % of its energy in {ranks['energy_rank']} · {module['rank_above_noise']} above noise"
    )
    return markup.heading("", module["name"], text)


def spectrum_values(report: dict[str, Any], module: dict[str, Any]) -> list[Any]:
    info = plots.spectrum_info(report, module["name"])
    sentence = (
        "How strongly the update acts along each of its directions, strongest first. A steep fall means few directions do the work. "
        "Below the dashed line a direction is no stronger than random factors of the same size would make it."
    )
    rows = [(index, value, info.noise_floor) for index, value in enumerate(info.values, 1)]
    table = (("direction", "singular value", "noise floor"), rows)
    return figure.filled("singular-values", plots.spectrum_figure(info), "Singular values.", sentence, table)


def growth_values(report: dict[str, Any]) -> list[Any]:
    if len(report["growth"]) < 2:
        return figure.hidden()
    info = plots.growth_info(report)
    sentence = "The update starts at zero, since B does. Its size grows with training; its rank says over how many directions it is spread."
    table = (("step", "size of the update", "median effective rank"), zip(info.steps, info.norm, info.effective_rank, strict=True))
    return figure.filled("growth", plots.growth_figure(info), "Growth over training.", sentence, table)


def _amplified(factor: float) -> str:
    if factor < 1:
        return "Below 1 the base is still louder there than the update: a short training, or directions that the base uses already."
    return "Above 1 the update is louder there than the base: it brings out what the base barely uses. (The LoRA paper: 21.5 at rank 4.)"


def inside_html(report: dict[str, Any], base: str) -> str:
    """Amplification and intruder dimensions of one module on its base."""
    item, intruders, dora = report["amplification"], report["intruders"], report["dora_delta"]
    rows = [
        ("the update's own", f"{item['projected_by_update']:.4g}"),
        ("the base's strongest", f"{item['projected_by_weight']:.4g}"),
        ("random", f"{item['projected_by_random']:.4g}"),
    ]
    if item["factor"] is None:
        factor = "The update is zero, so it amplifies nothing."
    else:
        factor = (
            f"The update has size {item['update_norm']:.4g}; in its directions the base has {item['projected_by_update']:.4g} of its "
            f"{item['weight_norm']:.4g}: a ratio of {item['factor']:.3g}. {_amplified(item['factor'])}"
        )
    cells = [
        markup.stat("Amplification", "–" if item["factor"] is None else f"{item['factor']:.3g} ×"),
        markup.stat("Intruder dimensions", str(len(intruders["intruders"])), f"of the {len(intruders['best_cosines'])} strongest"),
    ]
    if dora:
        share = "–" if dora["relative_norm"] is None else f"{100 * dora['relative_norm']:.3g} % of the weight"
        cells.append(markup.stat("DoRA's whole change", f"{dora['ranks']['frobenius']:.4g}", share))
    told = (
        "Intruders are strong directions of W + ΔW that resemble none of W's (|cosine| under 0.5). Full fine-tuning makes few; many of "
        "them have been linked to more forgetting."
    )
    return (
        markup.heading("", f"Beside the base's own weight ({base})", factor) + markup.stats(cells)
        + markup.table((f"Directions ({item['r']} of them)", "Size of W there"), rows, "numbers")
        + f'<p class="how">{markup.escape(told)}</p>'
    )  # fmt: skip
