"""Quality against cost: each run's held-out loss over its trainable parameters, its peak memory or its time, and which are worth it.

A run is on the front when no other has both a lower or equal loss and a lower or equal cost, one of them strictly. With a handful of
runs of one seed each, a lead of a hundredth may be chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from studio.plots.compare import escape_label, run_colour
from studio.plots.style import MUTED, empty_figure, new_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

Cost = Literal["parameters", "memory", "time"]
COSTS: dict[Cost, tuple[str, float]] = {
    "parameters": ("trainable parameters, millions", 1e6), "memory": ("peak memory, GB", 1e9), "time": ("time, minutes", 60.0),
}  # fmt: skip
"""Title of the axis, and the unit that one on it stands for."""


class RunCost(NamedTuple):
    """One run's held-out loss (nats per token) and what it took; 0 where unknown."""

    name: str
    eval_loss: float | None
    parameters: float
    memory_bytes: float
    seconds: float

    def of(self, cost: Cost) -> float:
        return {"parameters": self.parameters, "memory": self.memory_bytes, "time": self.seconds}[cost]


class ParetoPoint(NamedTuple):
    """A run's place in the figure; `cost` in the axis' unit."""

    name: str
    colour: str
    cost: float
    eval_loss: float
    is_best: bool
    """On the front."""


class ParetoInfo(NamedTuple):
    cost: Cost
    points: list[ParetoPoint]
    missing: list[str]
    """Runs without a held-out loss, or whose cost is not known."""


def pareto_info(runs: Sequence[RunCost], cost: Cost = "parameters") -> ParetoInfo:
    _, unit = COSTS[cost]
    placed = [
        (index, run.name, run.of(cost) / unit, run.eval_loss)
        for index, run in enumerate(runs)
        if run.eval_loss is not None and run.of(cost) > 0
    ]
    pairs = [(spent, loss) for _, _, spent, loss in placed]
    points = [ParetoPoint(name, run_colour(i), spent, loss, not is_dominated((spent, loss), pairs)) for i, name, spent, loss in placed]
    there = {name for _, name, _, _ in placed}
    return ParetoInfo(cost, points, [run.name for run in runs if run.name not in there])


def is_dominated(one: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
    """Some other pair is at most as large in both numbers, and smaller in one."""
    return any(other[0] <= one[0] and other[1] <= one[1] and other != one for other in others)


def pareto_figure(info: ParetoInfo, *, revision: str = "") -> go.Figure:
    import plotly.graph_objects as go

    title, _ = COSTS[info.cost]
    if not info.points:
        return empty_figure("None of these runs has both a held-out loss and a known cost yet.", 340)
    figure = new_figure(340, showlegend=False, hovermode="closest", uirevision=revision, xaxis_title=title, yaxis_title="held-out loss")
    front = sorted((point for point in info.points if point.is_best), key=lambda point: point.cost)
    x, y = [p.cost for p in front], [p.eval_loss for p in front]
    line = {"color": MUTED, "width": 1.2, "dash": "dot", "shape": "hv"}
    figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", name="front"))
    for point in info.points:
        symbol = {"size": 13, "color": point.colour, "symbol": "circle" if point.is_best else "circle-open", "line": {"width": 2}}
        label = escape_label(point.name)
        figure.add_trace(
            go.Scatter(
                x=[float(f"{point.cost:.5g}")], y=[float(f"{point.eval_loss:.5g}")], mode="markers+text", marker=symbol, name=label,
                text=[label if len(label) <= 28 else label[:27] + "…"], textposition="top center", cliponaxis=False,
                hovertemplate=f"{label}<br>loss %{{y}}<br>{title} %{{x}}<extra></extra>",
            )
        )  # fmt: skip
    spread = [point.cost for point in info.points]
    if min(spread) > 0 and max(spread) / min(spread) > 20:
        figure.update_xaxes(type="log")
    figure.update_xaxes(rangemode="normal")
    figure.update_yaxes(rangemode="normal")
    return figure
