"""Held-out loss against rank, of runs that are alike in all else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from studio.plots.style import EVALUATION, empty_figure, new_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Point(NamedTuple):
    """One run: its rank, held-out loss in nats, trainable parameters, name."""

    rank: int
    loss: float
    parameters: int
    name: str


def sweep_figure(points: Sequence[Point]) -> go.Figure:
    """A line through the best run of each rank, and every run as a dot; the axis of ranks is logarithmic."""
    import plotly.graph_objects as go

    if not points:
        return empty_figure("No finished runs to draw.")
    figure = new_figure(340, hovermode="closest", showlegend=False, xaxis_title="rank r", yaxis_title="held-out loss (nats per token)")
    best = {point.rank: min(other.loss for other in points if other.rank == point.rank) for point in sorted(points)}
    line = {"color": EVALUATION, "width": 2}
    figure.add_trace(go.Scatter(x=list(best), y=list(best.values()), mode="lines", line=line, hoverinfo="skip"))
    hover = "r = %{x}: %{y:.4f}<br>%{customdata[0]:,} parameters<br>%{customdata[1]}<extra></extra>"
    data = [[point.parameters, point.name] for point in points]
    figure.add_trace(
        go.Scatter(
            x=[point.rank for point in points], y=[point.loss for point in points], customdata=data, mode="markers",
            marker={"size": 10, "color": EVALUATION}, hovertemplate=hover,
        )
    )  # fmt: skip
    ranks = list(best)
    figure.update_yaxes(title_standoff=14)
    figure.update_xaxes(type="log", tickvals=ranks, ticktext=[str(rank) for rank in ranks])
    return figure
