"""Several runs' loss curves in one figure: the smoothed training loss of each as a line, its held-out loss as marks on a dashed one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from studio.core.records import StepRecord
from studio.plots.loss import LossInfo, loss_info, shorten
from studio.plots.style import SERIES, empty_figure, new_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go


class RunCurve(NamedTuple):
    """One run's name in the legend, its colour, and its losses (nats per token)."""

    name: str
    colour: str
    info: LossInfo


def run_colour(index: int) -> str:
    """The colour of the run chosen as number `index`, in curves, tables and the Pareto plot alike."""
    return SERIES[index % len(SERIES)]


def compare_info(runs: Sequence[tuple[str, Sequence[StepRecord]]], smoothing: float = 0.9) -> list[RunCurve]:
    return [RunCurve(name, run_colour(index), loss_info(records, smoothing)) for index, (name, records) in enumerate(runs)]


def compare_figure(curves: Sequence[RunCurve], *, log_scale: bool = False, revision: str = "") -> go.Figure:
    """Training and held-out loss of one run share a colour and a place in the legend."""
    import plotly.graph_objects as go

    if not any(curve.info.steps or curve.info.eval_steps for curve in curves):
        return empty_figure("None of these runs has logged a step yet.", 380)
    figure = new_figure(380, uirevision=revision, xaxis_title="step", yaxis_title="loss (nats per token)")
    for curve in curves:
        info, line = curve.info, {"color": curve.colour, "width": 2}
        shared = {"legendgroup": escape_label(curve.name), "name": escape_label(curve.name)}
        if info.steps:
            figure.add_trace(go.Scatter(x=info.steps, y=shorten(info.smoothed), mode="lines", line=line, **shared))
        if info.eval_steps:
            figure.add_trace(
                go.Scatter(
                    x=info.eval_steps, y=shorten(info.eval_loss), mode="lines+markers", line={**line, "width": 1.2, "dash": "dot"},
                    marker={"size": 8, "symbol": "diamond"}, showlegend=not info.steps,
                    hovertemplate="%{y} held out<extra>" + escape_label(curve.name) + "</extra>", **shared,
                )
            )  # fmt: skip
    figure.update_layout(legend={"y": 1.02, "yanchor": "bottom"})
    if log_scale:
        figure.update_yaxes(type="log")
    return figure


def escape_label(text: str) -> str:
    """Plotly reads a few HTML tags in labels, and %{...} in hover texts: a run's name is to be shown as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "% {")
