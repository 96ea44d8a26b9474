"""The loss of a run: every logged step, smoothed, and the held-out evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from studio.core.records import StepRecord
from studio.plots.style import EVALUATION, TRAINED, empty_figure, new_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go


class LossInfo(NamedTuple):
    """Steps and losses (nats per token); `smoothed` is the debiased exponential mean of `loss`."""

    steps: list[int]
    loss: list[float]
    smoothed: list[float]
    eval_steps: list[int]
    eval_loss: list[float]


def loss_info(records: Sequence[StepRecord], smoothing: float = 0.9) -> LossInfo:
    """The figure's numbers. `smoothing` is the weight of the past, 0 (none) to below 1."""
    train = [(record.step, record.loss) for record in records if record.loss is not None]
    held_out = [(record.step, record.eval_loss) for record in records if record.eval_loss is not None]
    losses = [loss for _, loss in train]
    return LossInfo([s for s, _ in train], losses, smooth(losses, smoothing), [s for s, _ in held_out], [loss for _, loss in held_out])


def smooth(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving mean, divided by 1 - weight^n so that the first values are not pulled to 0 (Adam's debiasing)."""
    result, mean, decay = [], 0.0, 1.0
    for value in values:
        mean = weight * mean + (1 - weight) * value
        decay *= weight
        result.append(mean / (1 - decay))
    return result


def loss_figure(info: LossInfo, *, log_scale: bool = False, revision: str = "") -> go.Figure:
    """Zoom and hidden traces are kept from one update to the next as long as `revision` is the same."""
    import plotly.graph_objects as go

    if not info.steps and not info.eval_steps:
        return empty_figure("The first step has not been logged yet.", 360)
    figure = new_figure(360, uirevision=revision, xaxis_title="step", yaxis_title="loss (nats per token)")
    if info.steps:
        few = "lines+markers" if len(info.steps) < 2 else "lines"
        faint, bold = {"color": TRAINED, "width": 1}, {"color": TRAINED, "width": 2.5}
        figure.add_trace(go.Scatter(x=info.steps, y=shorten(info.loss), name="train", mode=few, line=faint, opacity=0.5, hoverinfo="skip"))
        figure.add_trace(go.Scatter(x=info.steps, y=shorten(info.smoothed), name="train, smoothed", mode="lines", line=bold))
    if info.eval_steps:
        line = {"color": EVALUATION, "width": 2}
        figure.add_trace(
            go.Scatter(x=info.eval_steps, y=shorten(info.eval_loss), name="held out", mode="lines+markers", line=line, marker={"size": 8})
        )
    if log_scale:
        figure.update_yaxes(type="log")
    return figure


def shorten(values: Sequence[float]) -> list[float]:
    """Five significant digits: what a screen can show, at half the bytes."""
    return [float(f"{value:.5g}") for value in values]
