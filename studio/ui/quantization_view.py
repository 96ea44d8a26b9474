"""The quantization laboratory's answers, laid out: totals of the model, one module's figures, tables and sentences."""

from __future__ import annotations

from typing import Any

from studio.core.units import show_bytes, show_count
from studio.plots import nf4
from studio.ui import figure, heat_map, markup

TITLES = {"nf4": "NF4", "fp4": "FP4", "int4": "INT4", "int8": "INT8"}
NORMAL_KS = 0.02
"""Below this largest gap between two distribution functions a matrix is called close to normal; a reader's mark, no test."""


def first_module(report: dict[str, Any]) -> str:
    """The module shown first: the one that NF4 (or the first type) hurts most, as heat_map.picked writes it."""
    kind = next(iter(report["totals"]))
    worst = max(report["modules"], key=lambda module: module["errors"][kind]["relative_rmse"])
    return f"{worst['layer']}|{worst['name']}"


def heat(report: dict[str, Any], kind: str, picked: str) -> str:
    """Layers by modules: SQNR of one type."""
    cells = [
        heat_map.Cell(module["name"], module["stack"], module["layer"], module["module"], module["errors"][kind]["sqnr_db"])
        for module in report["modules"]
    ]
    words = heat_map.Words(
        f"{TITLES[kind]} signal to noise, dB.", "More is better: 20 dB is an error of a tenth, 40 dB of a hundredth. Press a cell.",
        "dB, most error", "dB, least", f"sqnr-{kind}",
    )  # fmt: skip
    return heat_map.heat_html(heat_map.heat_info(cells, "dB"), words, heat_map.split_picked(picked)[1])


def totals_html(report: dict[str, Any]) -> str:
    """The whole model under each type, from counted tensors."""
    nf4_total = report["totals"]["nf4"]
    sixteen = 2 * report["parameters"]
    linear_share = report["linear_parameters"] / report["parameters"]
    maxima = "double quantization on" if report["options"]["double_quant"] else "block maxima in 32 bits"
    bits, smaller = nf4_total["bits_per_weight"], nf4_total["times_smaller_than_16_bit"]
    cells = [
        markup.stat("Weights", show_count(report["parameters"]), f"{100 * linear_share:.0f} % of them in linear layers"),
        markup.stat("NF4, bits per weight", f"{bits:.3f}", maxima),
        markup.stat("Model in NF4", show_bytes(nf4_total["model_size_bytes"]), f"{show_bytes(sixteen)} in 16 bits"),
        markup.stat(
            "Smaller than 16 bits",
            f"{smaller:.2f} ×",
            f"linear layers alone {16 / bits:.2f} ×",
        ),
        markup.stat("NF4 error", f"{100 * nf4_total['relative_rmse']:.2f} %", f"of the weights' size; {_db(nf4_total['sqnr_db'])}"),
    ]
    rows = [
        (TITLES[name], f"{total['bits_per_weight']:.3f}", show_bytes(total["model_size_bytes"]),
         f"{total['times_smaller_than_16_bit']:.2f} ×", f"{100 * total['relative_rmse']:.2f} %", _db(total["sqnr_db"]))
        for name, total in report["totals"].items()
    ]  # fmt: skip
    headers = ("Type", "Bits per weight", "Whole model", "Smaller than 16 bits", "Relative error", "Signal to noise")
    rest = (
        f"Counted from the tensors on disk. Embeddings, norms and the output head ({100 * (1 - linear_share):.0f} % of the weights) "
        "stay as they are stored, as in QLoRA; that is why the whole model shrinks by less than the often quoted factor 4."
    )
    return (
        markup.heading("", f"{report['model']}, {len(report['modules'])} matrices") + markup.stats(cells)
        + markup.table(headers, rows, "numbers") + f'<p class="how">{markup.escape(rest)}</p>'
    )  # fmt: skip


def module_values(report: dict[str, Any], kind: str) -> list[Any]:
    """Values of Widgets.module_outputs: heading, three figures with their captions, and the table."""
    info = report["types"][kind]
    weights, codes, absmax = nf4.weights_info(report, kind), nf4.codes_info(report, kind), nf4.absmax_info(report, kind)
    return [
        module_html(report),
        *figure.filled(
            "weights-histogram", nf4.weights_figure(weights), "Weights and levels.", _weights_sentence(report, kind),
            (("from", "to", "weights"), zip(weights.edges, weights.edges[1:], weights.counts, strict=False)),
        ),
        *figure.filled(
            "code-usage", nf4.codes_figure(codes), "How often each code is used.", _codes_sentence(info, kind),
            (("code", "level", "weights", "share %", "normal %"),
             zip(codes.codes, codes.levels, codes.counts, codes.share, codes.ideal or [""] * len(codes.codes), strict=True)),
        ),
        *figure.filled(
            "block-maxima", nf4.absmax_figure(absmax), "Block maxima." if kind != "int8" else "Row maxima.", _absmax_sentence(info, kind),
            (("from", "to", "before", "after"), zip(absmax.edges, absmax.edges[1:], absmax.before, absmax.after, strict=False)),
        ),
        errors_html(report),
    ]  # fmt: skip


def module_html(report: dict[str, Any]) -> str:
    weights = report["weights"]
    shape = f"{weights['rows']:,} × {weights['columns']:,} · {weights['dtype']}"
    spread = f"standard deviation {weights['std']:.4g} · largest {weights['largest']:.4g}"
    return markup.heading("", weights["name"], f"{shape} · {spread}")


def _weights_sentence(report: dict[str, Any], kind: str) -> str:
    if kind == "int8":
        return "Each weight divided by the largest of its block of weights. INT8 has 255 evenly spaced levels per row, too many to draw."
    name = TITLES[kind]
    return (
        f"Each weight divided by the largest of its block. Green lines are {name}'s levels with their codes, dotted lines where the "
        "nearest level changes. Levels that stand close where weights are many make a small error."
    )


def _codes_sentence(info: dict[str, Any], kind: str) -> str:
    if kind == "int8":
        return f"255 steps hold {info['entropy_bits']:.2f} of 8 bits of information here: the middle is used often, the ends hardly ever."
    text = f"The codes carry {info['entropy_bits']:.3f} of 4 bits of information"
    if info["ideal_entropy_bits"] is not None:
        text += f"; those of normal weights would carry {info['ideal_entropy_bits']:.3f}"
    return f"{text}. Bars above their mark are codes that these weights use more than normal ones would."


def _absmax_sentence(info: dict[str, Any], kind: str) -> str:
    absmax = info["absmax"]
    if kind == "int8":
        return f"One maximum per row, kept in 32 bits: {absmax['smallest']:.4g} to {absmax['largest']:.4g}."
    if not info["double_quant"]:
        bits = 32 / info["block_size"]
        return f"One maximum per {info['block_size']} weights in 32 bits: {bits:.3f} bits per weight. Double quantization takes 8."
    return (
        f"One per {info['block_size']} weights, stored in 8 bits after their mean {absmax['offset']:.4g} is taken off: "
        f"{100 * absmax['relative_rmse']:.2f} % off, which raises the weights' error from {100 * info['relative_rmse_single']:.3f} % "
        f"to {100 * info['relative_rmse']:.3f} %."
    )


def errors_html(report: dict[str, Any]) -> str:
    """All types side by side on this module, and what its distribution says."""
    headers = (
        "Type",
        "Bits per weight",
        "Relative error",
        "Signal to noise",
        "Were they normal",
        "Predicted from peaks",
        "Worst block",
    )
    rows = [(TITLES[name], *_error_cells(info)) for name, info in report["types"].items()]
    return markup.heading("", "Error of this matrix, type by type") + markup.table(headers, rows, "numbers") + _normality_html(report)


def _error_cells(info: dict[str, Any]) -> tuple[str, ...]:
    worst = info["worst"]
    where = f"{100 * worst['relative_rmse']:.2f} % at row {worst['row']:,}, column {worst['column']:,}" if worst else "no error"
    return (
        f"{info['bits_per_weight']:.3f}", f"{100 * info['relative_rmse']:.3f} %", _db(info["sqnr_db"]),
        _percent(info["ideal_relative_rmse"]), _percent(info["predicted_relative_rmse"]), where,
    )  # fmt: skip


def _normality_html(report: dict[str, Any]) -> str:
    weights, sentences = report["weights"], []
    kurtosis, distance = weights["excess_kurtosis"], weights["ks_distance"]
    if kurtosis is None or distance is None:
        sentences.append("All weights of this matrix are equal, so there is no distribution to compare.")
    else:
        near = "close to normal" if distance < NORMAL_KS else "not normal"
        sentences.append(
            f"These weights are {near}: their distribution function is at most {100 * distance:.1f} % away from the normal one, "
            f"and their excess kurtosis is {kurtosis:.2f} (0 is normal, more means heavier tails). "
            "Heavy tails raise block maxima, which coarsens the other weights of a block."
        )
    if weights["zero_blocks"]:
        sentences.append(f"{weights['zero_blocks']:,} blocks hold only zeros; they are stored exactly.")
    columns = weights["outlier_columns"]
    if columns:
        first = ", ".join(f"{column['column']} ({column['rms_ratio']:.1f} ×)" for column in columns[:5])
        sentences.append(
            f"{weights['outlier_column_count']:,} outlier columns, more than 3 times the median column's size, the largest: {first}."
        )
    else:
        sentences.append("No outlier columns: no input's weights exceed 3 times the median column's size.")
    return markup.notice(" ".join(sentences), "info")


def _db(value: float | None) -> str:
    return "exact" if value is None else f"{value:.2f} dB"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.3f} %"
