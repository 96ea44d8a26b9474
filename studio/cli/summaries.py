"""The reports of `plan`, `nf4` and `spectrum` as a screenful each: aligned, with units.

Does not know the rest: `--full` prints every number there is, `--json` the report as it stands.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from studio.cli.output import table_lines
from studio.core.units import show_bytes, show_count, show_duration, show_share

LEVEL_WORDS = {"fits": "It fits.", "tight": "It is tight.", "too large": "Too large for this machine."}
WIDTH = 100
"""Characters of a line of text."""
INDENTED = {"initial_indent": "  ", "subsequent_indent": "  "}
BAR_WIDTH = 40
SHOWN_VALUES = 8
"""So many of a long list's first numbers are shown; of a run's snapshots, so many between the first and the last."""

Report = Mapping[str, Any]


def plan_summary(plan: Report) -> Iterator[str]:
    """What is trained, the verdict, memory by part, time, data, and the other methods."""
    trained, total = plan["trainable_parameters"], plan["total_parameters"]
    yield (
        f"{plan['family']} on {plan['model_id']}: {show_count(trained)} of {show_count(total)} parameters trained "
        f"({show_share(trained, total)}), {show_bytes(plan['adapter_file_bytes'])} on disk"
    )
    yield f"{LEVEL_WORDS[plan['verdict']['level']]} {plan['verdict']['sentence']}"
    duration, data = plan["duration"], plan["data"]
    step_s = duration["step_s"]
    step = show_duration(step_s) if step_s >= 10 else f"{step_s:.2g} s"
    pace = f"{duration['steps']:,} steps of {step}, {duration['tokens_per_s']:,.0f} tokens/s"
    known = f"Time {show_duration(duration['seconds'])}: {pace}"
    yield known if duration["steps"] else "Time known once `python -m studio preview` has read the data"
    rows = f"{data['rows']:,} rows" if data["rows"] else "rows"
    yield f"Data {rows} of {data['mean_tokens']:.0f} tokens on average, {data['held_out_rows']:,} held out ({data['source']})"
    yield ""
    parts = [(part["name"], show_bytes(part["bytes"]), part["note"]) for part in plan["memory"]]
    peak = ("at the peak", show_bytes(plan["memory_bytes"]), f"of {show_bytes(plan['hardware']['memory_bytes'])}")
    yield from table_lines(("MEMORY", "", ""), [*parts, peak], right=(1,))
    yield ""
    others = [
        (
            ("* " if other["current"] else "  ") + other["title"] + _held(other["quantization"]), show_count(other["trainable_parameters"]),
            show_bytes(other["memory_bytes"]), show_duration(other["seconds"]) if other["seconds"] else "–", other["level"],
        )
        for other in plan["alternatives"]
    ]  # fmt: skip
    yield from table_lines(("THE SAME RUN WITH", "TRAINED", "MEMORY", "TIME", ""), others, right=(1, 2, 3))
    for text in (plan["alternatives_note"], *plan["advice"]):
        yield from textwrap.wrap(text, WIDTH)


def _held(quantization: str) -> str:
    return "" if quantization == "none" else f" on {quantization}"


def nf4_summary(report: Report) -> Iterator[str]:
    """One module under every type, then how often each code of the first is used."""
    weights = report["weights"]
    yield f"{weights['name']}: {weights['rows']:,} × {weights['columns']:,} weights, {weights['dtype']}"
    kurtosis = weights["excess_kurtosis"]
    moments = "mean {mean:.3g}, standard deviation {std:.3g}, largest {largest:.3g}".format(**weights)
    yield moments + ("" if kurtosis is None else f", excess kurtosis {kurtosis:.3g}")
    yield ""
    rows = [
        (
            name, f"{kind['bits_per_weight']:.3f}", show_bytes(kind["size_bytes"]), f"{100 * kind['relative_rmse']:.2f} %",
            _decibels(kind["sqnr_db"]), f"{kind['entropy_bits']:.2f} bits",
        )
        for name, kind in report["types"].items()
    ]  # fmt: skip
    headers = ("TYPE", "BITS PER WEIGHT", "SIZE", "ERROR (RMSE)", "SQNR", "ENTROPY OF CODES")
    yield from table_lines(headers, rows, right=range(1, 6))
    yield ""
    counts, levels = report["code_counts"], report["types"][report["type"]]["levels"]
    most, every = max(counts), sum(counts)
    codes = [
        (str(code), f"{level:+.4f}", f"{100 * count / every:.1f} %", "█" * round(BAR_WIDTH * count / most))
        for code, (level, count) in enumerate(zip(levels, counts, strict=True))
    ]
    yield from table_lines((f"{report['type'].upper()} CODE", "LEVEL", "WEIGHTS", ""), codes, right=(0, 1, 2))


def _decibels(ratio: float | None) -> str:
    return "no error" if ratio is None else f"{ratio:.1f} dB"


def nf4_model_summary(report: Report) -> Iterator[str]:
    """A whole model under every type, then each kind of module under the first."""
    modules = report["modules"]
    yield (
        f"{report['model']}: {show_count(report['parameters'])} parameters, {show_count(report['linear_parameters'])} of them in "
        f"{len(modules):,} linear layers; {show_bytes(report['stored_size_bytes'])} as stored"
    )
    yield ""
    totals = [
        (
            name, f"{total['bits_per_weight']:.3f}", show_bytes(total["model_size_bytes"]), f"{total['times_smaller_than_16_bit']:.2f} ×",
            f"{100 * total['relative_rmse']:.2f} %", _decibels(total["sqnr_db"]),
        )
        for name, total in report["totals"].items()
    ]  # fmt: skip
    headers = ("TYPE", "BITS PER WEIGHT", "MODEL", "SMALLER THAN 16 BITS", "ERROR (RMSE)", "SQNR")
    yield from table_lines(headers, totals, right=range(1, 6))
    yield ""
    first = next(iter(report["totals"]))
    yield from _by_kind(modules, f"{first.upper()}'S ERROR", lambda module: 100 * module["errors"][first]["relative_rmse"], "{:.2f} %")


def _by_kind(modules: Sequence[Report], title: str, value: Any, shown: str) -> Iterator[str]:
    """A line for each kind of module: its median over the layers, its largest value and where that is."""
    rows = []
    for kind in dict.fromkeys(module["module"] for module in modules):
        values = {module["layer"]: value(module) for module in modules if module["module"] == kind and value(module) is not None}
        if values:
            worst = max(values, key=values.__getitem__)
            rows.append((kind, str(len(values)), shown.format(median(values.values())), shown.format(values[worst]), str(worst)))
    yield from table_lines((title, "LAYERS", "MEDIAN", "LARGEST", "IN LAYER"), rows, right=(1, 2, 3, 4))


def spectrum_summary(report: Report) -> Iterator[str]:
    """An adapter: each kind of module's ranks, the advice, and the growth over the run. Of one module, its singular values too."""
    modules = report["modules"]
    kinds = "".join(f", {name}" for name, is_set in (("rsLoRA", report["rslora"]), ("DoRA", report["dora"])) if is_set)
    yield f"{report['adapter']} on {report['base_model']}: r {report['r']}, alpha {report['alpha']:g}{kinds}"
    yield ""
    if len(modules) == 1:
        yield from module_summary(modules[0])
    else:
        yield from _ranks_by_kind(modules)
    for name in ("amplification", "intruders", "dora_delta", "similarity"):
        if name in report:
            yield from ("", name.replace("_", " "), *(f"  {line}" for line in _scalars(report[name])))
    for advice in report["advice"]:
        yield from ("", *textwrap.wrap(advice["hypothesis"], WIDTH), *textwrap.wrap(advice["evidence"], WIDTH, **INDENTED))
    growth = report["growth"]
    if growth:
        chosen = growth[:: max(1, -(-len(growth) // SHOWN_VALUES))]
        chosen = chosen if chosen[-1] is growth[-1] else [*chosen, growth[-1]]
        rows = [(f"{at['step']:,}", f"{at['median_effective_rank']:.2f}", f"{at['update_norm']:.3g}") for at in chosen]
        yield ""
        yield from table_lines(("STEP", "MEDIAN EFFECTIVE RANK", "NORM OF THE UPDATE"), rows, right=range(3))


def _ranks_by_kind(modules: Sequence[Report]) -> Iterator[str]:
    rows = []
    for kind in dict.fromkeys(module["module"] for module in modules):
        alike = [module for module in modules if module["module"] == kind]
        ranks = [module["ranks"] for module in alike]
        rows.append((
            kind, str(len(alike)), f"{median(rank['energy_rank'] for rank in ranks):g} of {max(module['r'] for module in alike)}",
            f"{median(rank['effective_rank'] for rank in ranks):.2f}", f"{median(rank['stable_rank'] for rank in ranks):.2f}",
            f"{median(module['rank_above_noise'] for module in alike):g}", f"{median(rank['frobenius'] for rank in ranks):.3g}",
        ))  # fmt: skip
    headers = ("MEDIANS OVER LAYERS", "LAYERS", "HOLD 90 %", "EFFECTIVE RANK", "STABLE RANK", "ABOVE NOISE", "NORM")
    yield from table_lines(headers, rows, right=range(1, 7))


def module_summary(module: Report) -> Iterator[str]:
    """One module's update, or its change from a base: size, ranks and the first singular values."""
    ranks, values = module["ranks"], module["singular_values"]
    yield f"{module['name']}: {module['rows']:,} × {module['columns']:,}"
    yield (
        f"{ranks['energy_rank']} of {len(values):,} directions hold 90 % of the energy, {module['rank_above_noise']} are above noise "
        f"({module['noise_floor']:.3g}); effective rank {ranks['effective_rank']:.2f}, stable rank {ranks['stable_rank']:.2f}, "
        f"norm {ranks['frobenius']:.3g}"
    )
    if module.get("relative_norm") is not None:
        yield f"the change is {100 * module['relative_norm']:.3g} % of the base's norm"
    yield f"singular values {_numbers(values)}"


def changes_summary(report: Report) -> Iterator[str]:
    """How far each kind of module of a whole model lies from its base."""
    yield f"{report['tuned']} against {report['base']}, the norm of each linear layer's change over that of its weights"
    yield ""
    yield from _by_kind(
        report["modules"], "CHANGE", lambda module: None if module["relative_norm"] is None else 100 * module["relative_norm"], "{:.3g} %"
    )


def _scalars(report: Report) -> Iterator[str]:
    """A smaller report's numbers, a line each; tables of numbers by their first row."""
    for name, value in report.items():
        if isinstance(value, Mapping):
            yield from _scalars(value)
        elif isinstance(value, (list, tuple)):
            is_table = bool(value) and isinstance(value[0], (list, tuple))
            row = value[0] if is_table else value
            shown = _numbers(row) if row and not isinstance(row[0], Mapping) else str(len(row))
            yield f"{name.replace('_', ' ')}{', first row' if is_table else ''} {shown}"
        elif value is not None:
            yield f"{name.replace('_', ' ')} {value:.4g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}"


def _numbers(values: Sequence[float]) -> str:
    more = f" … ({len(values):,} in all)" if len(values) > 2 * SHOWN_VALUES else ""
    return " ".join(f"{value:.3g}" for value in values[: SHOWN_VALUES if more else None]) + more
