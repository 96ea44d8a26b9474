"""The loss of a run: every logged step, smoothed, and the held-out evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from studio.core.records import StepRecord
from studio.plots.style import EVALUATION, TRAINED, empty_figure, plain_figure

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
    if not info.steps and not info.eval_steps:
        return empty_figure("The first step has not been logged yet.", 360)
    traces: list[dict[str, Any]] = []
    if info.steps:
        faint = {"mode": "lines+markers" if len(info.steps) < 2 else "lines", "line": {"color": TRAINED, "width": 1}, "opacity": 0.5}
        traces.append({"x": info.steps, "y": shorten(info.loss), "name": "train", "hoverinfo": "skip", **faint})
        bold = {"mode": "lines", "line": {"color": TRAINED, "width": 2.5}}
        traces.append({"x": info.steps, "y": shorten(info.smoothed), "name": "train, smoothed", **bold})
    if info.eval_steps:
        marked = {"mode": "lines+markers", "line": {"color": EVALUATION, "width": 2}, "marker": {"size": 8}}
        traces.append({"x": info.eval_steps, "y": shorten(info.eval_loss), "name": "held out", **marked})
    axes = {
        "xaxis": {"title": {"text": "step"}},
        "yaxis": {"title": {"text": "loss (nats per token)"}, "type": "log" if log_scale else "-"},
    }
    return plain_figure([{"type": "scatter", **trace} for trace in traces], 360, uirevision=revision, **axes)


def shorten(values: Sequence[float]) -> list[float]:
    """Five significant digits: what a screen can show, at half the bytes."""
    return [float(f"{value:.5g}") for value in values]
