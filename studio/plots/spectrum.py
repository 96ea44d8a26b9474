"""What an adapter learned, as figures: the singular values of one module's update, and how the whole update grew over training.

Made of the analysis' report (dicts). Values of zero have no place on a logarithmic axis and are left out, in words where all are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from studio.plots.style import FROZEN, MUTED, TRAINED, empty_figure, plain_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

HEIGHT = 320
MARKED = 128
"""Up to so many values each has a dot of its own."""


class SpectrumInfo(NamedTuple):
    """Singular values of one update, descending; the noise floor; the median values of the same module in all layers (may be empty)."""

    values: list[float]
    noise_floor: float
    typical: list[float]
    kind: str


class GrowthInfo(NamedTuple):
    """Per snapshot: step, median effective rank of all modules, Frobenius norm of the whole update. `step` is the one looked at."""

    steps: list[int]
    effective_rank: list[float]
    norm: list[float]
    step: int | None


def spectrum_info(report: dict[str, Any], name: str) -> SpectrumInfo:
    """`name` is the full name of one of the report's modules."""
    module = next(item for item in report["modules"] if item["name"] == name)
    kind = module["module"].rsplit(".", 1)[-1]
    alike = [item["singular_values"] for item in report["modules"] if item["module"] == module["module"]]
    length = min(map(len, alike))
    typical = [median(values[index] for values in alike) for index in range(length)] if len(alike) > 2 else []
    return SpectrumInfo(list(module["singular_values"]), float(module["noise_floor"]), typical, kind)


def growth_info(report: dict[str, Any]) -> GrowthInfo:
    points = report["growth"]
    return GrowthInfo(
        [point["step"] for point in points],
        [point["median_effective_rank"] for point in points],
        [point["update_norm"] for point in points],
        report.get("step"),
    )


def spectrum_figure(info: SpectrumInfo) -> go.Figure:
    """Values in orange on a logarithmic axis; the noise floor dashed; the same module of other layers faint."""
    if not any(value > 0 for value in info.values):
        return empty_figure("This update is exactly zero: nothing has been learned here yet.", HEIGHT)
    index = list(range(1, len(info.values) + 1))
    traces = []
    if any(value > 0 for value in info.typical):
        line = {"color": MUTED, "width": 1.2}
        traces.append(_line(index, _positive(info.typical), f"{info.kind}, median of all layers", line))
    dots = {"mode": "lines+markers", "marker": {"size": 7}} if len(index) <= MARKED else {}
    traces.append({**_line(index, _positive(info.values), "this module", {"color": TRAINED, "width": 2.2}), **dots})
    if info.noise_floor > 0:
        line = {"color": FROZEN, "width": 1.5, "dash": "dash"}
        traces.append(_line([index[0] - 0.4, index[-1] + 0.4], _short([info.noise_floor] * 2), "noise floor", line))
    ticks = _log_ticks([value for value in (*info.values, info.noise_floor) if value > 0])
    every = {"dtick": 1} if len(index) <= 16 else {}
    return plain_figure(
        traces, HEIGHT, xaxis={"title": {"text": "direction"}, "range": [0.4, len(index) + 0.6], **every},
        yaxis={"title": {"text": "singular value of ΔW"}, "type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]},
    )  # fmt: skip


def growth_figure(info: GrowthInfo) -> go.Figure:
    """Size of the update (orange, left) and median effective rank (blue, right) at each kept step."""
    if len(info.steps) < 2:
        return empty_figure("Fewer than two snapshots were kept, so there is no growth to draw.", HEIGHT)
    orange, blue = {"color": TRAINED, "width": 2.2}, {"color": FROZEN, "width": 2.2}
    rank = {"yaxis": "y2", "hovertemplate": "%{y:.3f}"}
    traces = [
        {**_line(info.steps, _short(info.norm), "size of the update", orange), "mode": "lines+markers"},
        {**_line(info.steps, _short(info.effective_rank), "median effective rank", blue), "mode": "lines+markers", **rank},
    ]
    mark = {"color": MUTED, "width": 1, "dash": "dot"}
    at = {"type": "line", "x0": info.step, "x1": info.step, "yref": "paper", "y0": 0, "y1": 1, "line": mark}
    return plain_figure(
        traces, HEIGHT, margin={"r": 60}, xaxis={"title": {"text": "step"}}, yaxis={"title": {"text": "‖ΔW‖"}, "rangemode": "tozero"},
        yaxis2={"title": {"text": "median effective rank"}, "overlaying": "y", "side": "right", "rangemode": "tozero", "showgrid": False,
                "zeroline": False},
        shapes=[] if info.step is None else [at],
    )  # fmt: skip


def _line(x: Sequence[float], y: Sequence[float | None], name: str, line: dict[str, Any]) -> dict[str, Any]:
    return {"type": "scatter", "x": list(x), "y": list(y), "name": name, "mode": "lines", "line": line, "hovertemplate": "%{y:.4g}"}


def _positive(values: Sequence[float]) -> list[float | None]:
    return [float(f"{value:.5g}") if value > 0 else None for value in values]


def _short(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _log_ticks(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 of each decade that `values` (positive) touch; only the powers of ten where there are more than three decades."""
    first, last = floor(log10(min(values))), ceil(log10(max(values)))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    return [float(f"{step * 10.0**decade:.1g}") for decade in range(first, last + 1) for step in steps]
