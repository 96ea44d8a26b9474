"""What quantization does to one weight matrix: its weights over the levels, how often each code is used, the blocks' maxima.

Each figure is made of one type's part of the analysis' report (a dict); nothing is computed here but bin centres and shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from studio.plots.style import EVALUATION, FROZEN, MUTED, TRAINED, empty_figure, new_figure

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
    import plotly.graph_objects as go

    if not sum(info.counts):
        return empty_figure("This module has no weights to draw.", HEIGHT)
    figure = new_figure(HEIGHT, hovermode="closest", bargap=0, showlegend=False, margin={"l": 56, "r": 16, "t": 30, "b": 44},
                        xaxis_title="weight / absolute maximum of its block", yaxis_title="weights")  # fmt: skip
    spans = [f"{low:.4f} to {high:.4f}" for low, high in pairwise(info.edges)]
    hover = "%{customdata}<br>%{y:,} weights<extra></extra>"
    figure.add_trace(
        go.Bar(x=_centres(info.edges), y=info.counts, customdata=spans, hovertemplate=hover, marker_color=FROZEN, name="weights")
    )
    for boundary in info.boundaries:
        figure.add_vline(x=boundary, line={"color": MUTED, "width": 1, "dash": "dot"})
    for level, code in zip(info.levels, info.codes, strict=True):
        figure.add_vline(x=level, line={"color": EVALUATION, "width": 1.5})
        told = f"code {code}: {level:.6f}"
        figure.add_annotation(x=level, y=1.0, yref="paper", yanchor="bottom", text=str(code), showarrow=False, hovertext=told,
                              font={"size": 11, "color": EVALUATION})  # fmt: skip
    figure.update_xaxes(range=[-1.03, 1.03])
    return figure


def codes_figure(info: CodesInfo) -> go.Figure:
    """Measured share of each code as bars, the ideal of normal weights as marks on them."""
    import plotly.graph_objects as go

    if not sum(info.counts):
        return empty_figure("No weight was given a code.", HEIGHT)
    few = len(info.codes) <= 16
    names: list[Any] = [str(code) for code in info.codes] if few else list(info.codes)
    figure = new_figure(HEIGHT, hovermode="closest", bargap=0.18, xaxis_title="code", yaxis_title="% of the weights")
    hover = "code %{x}: level %{customdata[0]:.4f}<br>%{y:.3f} % (%{customdata[1]:,} weights)<extra></extra>"
    data = [list(pair) for pair in zip(info.levels, info.counts, strict=True)]
    figure.add_trace(go.Bar(x=names, y=_short(info.share), customdata=data, hovertemplate=hover, marker_color=FROZEN, name="these weights"))
    if info.ideal:
        mark = {"symbol": "line-ew", "size": 14, "line": {"width": 2.5, "color": MUTED}}
        hover = "code %{x}: %{y:.3f} % of normal weights<extra></extra>"
        figure.add_trace(go.Scatter(x=names, y=_short(info.ideal), mode="markers", marker=mark, hovertemplate=hover, name="normal weights"))
    figure.update_xaxes(**({"type": "category", "nticks": 16} if few else {"dtick": 32, "tickangle": 0}))
    return figure


def absmax_figure(info: AbsmaxInfo) -> go.Figure:
    """How large the blocks' maxima are: as computed (blue), and as stored in 8 bits (a line) where double quantization is on."""
    import plotly.graph_objects as go

    if not sum(info.before):
        return empty_figure("There are no blocks.", HEIGHT)
    figure = new_figure(HEIGHT, hovermode="x unified", bargap=0, xaxis_title="absolute maximum of a block", yaxis_title="blocks")
    centres = _centres(info.edges)
    figure.add_trace(
        go.Bar(x=centres, y=info.before, name="32 bits each", marker_color=FROZEN, opacity=0.75, hovertemplate="%{y:,} blocks")
    )
    if info.double_quant:
        line = {"color": TRAINED, "width": 1.8, "shape": "hvh"}
        figure.add_trace(
            go.Scatter(x=centres, y=info.after, name="after double quantization", mode="lines", line=line, hovertemplate="%{y:,} blocks")
        )
    return figure


def _centres(edges: Sequence[float]) -> list[float]:
    return [float(f"{(low + high) / 2:.6g}") for low, high in pairwise(edges)]


def _short(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
