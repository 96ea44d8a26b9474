"""What quantization does to one weight matrix: its weights over the levels, how often each code is used, the blocks' maxima.

Each figure is made of one type's part of the analysis' report (a dict); nothing is computed here but bin centres and shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from studio.plots.style import EVALUATION, FROZEN, MUTED, TRAINED, empty_figure, plain_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

HEIGHT = 300


class WeightsInfo(NamedTuple):
    """Weights / absmax of their block: bin edges (n + 1), counts (n); the type's levels and boundaries, ascending; codes by level."""

    edges: list[float]
    counts: list[int]
    levels: list[float]
    codes: list[int]
    boundaries: list[float]


class CodesInfo(NamedTuple):
    """Per code: its level, its share of all weights in %, and the ideal share for normal weights (empty where there is none)."""

    codes: list[int]
    levels: list[float]
    counts: list[int]
    share: list[float]
    ideal: list[float]


class AbsmaxInfo(NamedTuple):
    """Block maxima on shared edges (n + 1): counts (n) as computed, and as read back after double quantization."""

    edges: list[float]
    before: list[int]
    after: list[int]
    double_quant: bool


def weights_info(report: dict[str, Any], kind: str) -> WeightsInfo:
    """`kind` is the type whose levels are drawn over the weights; INT8 has too many to draw."""
    weights, info = report["weights"], report["types"][kind]
    order = sorted(range(len(info["levels"])), key=lambda code: info["levels"][code])
    levels = [info["levels"][code] for code in order]
    return WeightsInfo(list(weights["histogram_edges"]), list(weights["histogram_counts"]), levels, order, sorted(info["boundaries"]))


def codes_info(report: dict[str, Any], kind: str) -> CodesInfo:
    """Codes in ascending order of their levels; INT8's are its 255 steps."""
    info = report["types"][kind]
    counts = info["code_counts"]
    total = sum(counts) or 1
    levels = info["levels"] or [(code - 127) / 127 for code in range(len(counts))]
    order = sorted(range(len(counts)), key=lambda code: (levels[code], code))
    names = order if info["levels"] else [code - 127 for code in order]
    ideal = [100 * info["ideal_occupancy"][code] for code in order] if info["ideal_occupancy"] else []
    shown = [counts[code] for code in order]
    return CodesInfo(names, [levels[code] for code in order], shown, [100 * count / total for count in shown], ideal)


def absmax_info(report: dict[str, Any], kind: str) -> AbsmaxInfo:
    info = report["types"][kind]
    absmax = info["absmax"]
    return AbsmaxInfo(list(absmax["edges"]), list(absmax["counts_before"]), list(absmax["counts_after"]), bool(info["double_quant"]))


def weights_figure(info: WeightsInfo) -> go.Figure:
    """The histogram in blue, the levels as teal lines with their codes on top, the boundaries between them dotted."""
    if not sum(info.counts):
        return empty_figure("This module has no weights to draw.", HEIGHT)
    spans = [f"{low:.4f} to {high:.4f}" for low, high in pairwise(info.edges)]
    hover = "%{customdata}<br>%{y:,} weights<extra></extra>"
    bars = {"type": "bar", "x": _centres(info.edges), "y": info.counts, "customdata": spans, "hovertemplate": hover,
            "marker": {"color": FROZEN}, "name": "weights"}  # fmt: skip
    lines = [_upright(at, {"color": MUTED, "width": 1, "dash": "dot"}) for at in info.boundaries]
    lines += [_upright(at, {"color": EVALUATION, "width": 1.5}) for at in info.levels]
    return plain_figure(
        [bars], HEIGHT, hovermode="closest", bargap=0, showlegend=False, margin={"t": 30}, shapes=lines,
        annotations=[_code(level, code) for level, code in zip(info.levels, info.codes, strict=True)],
        xaxis={"title": {"text": "weight / absolute maximum of its block"}, "range": [-1.03, 1.03]}, yaxis={"title": {"text": "weights"}},
    )  # fmt: skip


def _upright(at: float, line: dict[str, Any]) -> dict[str, Any]:
    return {"type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def _code(level: float, code: int) -> dict[str, Any]:
    """A code's number above its line."""
    return {"x": level, "y": 1.0, "yref": "paper", "yanchor": "bottom", "text": str(code), "showarrow": False,
            "hovertext": f"code {code}: {level:.6f}", "font": {"size": 11, "color": EVALUATION}}  # fmt: skip


def codes_figure(info: CodesInfo) -> go.Figure:
    """Measured share of each code as bars, the ideal of normal weights as marks on them."""
    if not sum(info.counts):
        return empty_figure("No weight was given a code.", HEIGHT)
    few = len(info.codes) <= 16
    names: list[Any] = [str(code) for code in info.codes] if few else list(info.codes)
    hover = "code %{x}: level %{customdata[0]:.4f}<br>%{y:.3f} % (%{customdata[1]:,} weights)<extra></extra>"
    data = [list(pair) for pair in zip(info.levels, info.counts, strict=True)]
    traces = [{"type": "bar", "x": names, "y": _short(info.share), "customdata": data, "hovertemplate": hover,
               "marker": {"color": FROZEN}, "name": "these weights"}]  # fmt: skip
    if info.ideal:
        mark = {"symbol": "line-ew", "size": 14, "line": {"width": 2.5, "color": MUTED}}
        hover = "code %{x}: %{y:.3f} % of normal weights<extra></extra>"
        traces.append({"type": "scatter", "x": names, "y": _short(info.ideal), "mode": "markers", "marker": mark, "hovertemplate": hover,
                       "name": "normal weights"})  # fmt: skip
    ticks = {"type": "category", "nticks": 16} if few else {"dtick": 32, "tickangle": 0}
    return plain_figure(
        traces, HEIGHT, hovermode="closest", bargap=0.18, xaxis={"title": {"text": "code"}, **ticks},
        yaxis={"title": {"text": "% of the weights"}},
    )  # fmt: skip


def absmax_figure(info: AbsmaxInfo) -> go.Figure:
    """How large the blocks' maxima are: as computed (blue), and as stored in 8 bits (a line) where double quantization is on."""
    if not sum(info.before):
        return empty_figure("There are no blocks.", HEIGHT)
    shared = {"x": _centres(info.edges), "hovertemplate": "%{y:,} blocks"}
    traces: list[dict[str, Any]] = [
        {**shared, "type": "bar", "y": info.before, "name": "32 bits each", "marker": {"color": FROZEN}, "opacity": 0.75}
    ]
    if info.double_quant:
        line = {"color": TRAINED, "width": 1.8, "shape": "hvh"}
        traces.append({**shared, "type": "scatter", "y": info.after, "name": "after double quantization", "mode": "lines", "line": line})
    titles = {"xaxis": {"title": {"text": "absolute maximum of a block"}}, "yaxis": {"title": {"text": "blocks"}}}
    return plain_figure(traces, HEIGHT, hovermode="x unified", bargap=0, **titles)


def _centres(edges: Sequence[float]) -> list[float]:
    return [float(f"{(low + high) / 2:.6g}") for low, high in pairwise(edges)]


def _short(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
