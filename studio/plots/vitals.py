"""A run's vital signs in small figures: learning rate, gradient norm, tokens per second, memory measured beside planned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from studio.core.records import StepRecord
from studio.plots.style import FROZEN, MUTED, TRAINED, empty_figure, new_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go


class VitalsInfo(NamedTuple):
    """Per sign: (step, value) pairs. Memory in GB (1e9 bytes), `planned_gb` as planned before the start, 0 when unknown."""

    learning_rate: list[tuple[int, float]]
    grad_norm: list[tuple[int, float]]
    tokens_per_s: list[tuple[int, float]]
    memory_gb: list[tuple[int, float]]
    planned_gb: float


def vitals_info(records: Sequence[StepRecord], planned_bytes: float = 0) -> VitalsInfo:
    def pairs(read: Callable[[StepRecord], float | None]) -> list[tuple[int, float]]:
        return [(record.step, value) for record in records if (value := read(record)) is not None]

    return VitalsInfo(
        pairs(lambda r: r.learning_rate), pairs(lambda r: r.grad_norm), pairs(lambda r: r.tokens_per_s),
        pairs(lambda r: r.memory_bytes / 1e9 if r.memory_bytes else None), planned_bytes / 1e9,
    )  # fmt: skip


def vitals_figure(info: VitalsInfo, *, revision: str = "") -> go.Figure:
    """Four small plots in one figure, so that one update carries them all."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    signs = [
        ("learning rate", info.learning_rate, TRAINED), ("gradient norm", info.grad_norm, TRAINED),
        ("tokens / s", info.tokens_per_s, FROZEN), ("memory, GB", info.memory_gb, FROZEN),
    ]  # fmt: skip
    if not any(values for _, values, _ in signs):
        return empty_figure("Nothing measured yet.", 180)
    figure = make_subplots(1, 4, subplot_titles=[name for name, _, _ in signs], horizontal_spacing=0.06)
    for column, (name, values, colour) in enumerate(signs, 1):
        x, y = [step for step, _ in values], [float(f"{value:.4g}") for _, value in values]
        figure.add_trace(go.Scatter(x=x, y=y, name=name, mode="lines", line={"color": colour, "width": 1.8}), 1, column)
    if info.planned_gb:
        figure.add_hline(y=info.planned_gb, line={"color": MUTED, "dash": "dot"}, annotation_text="planned", row=1, col=4)
    base = new_figure(190, showlegend=False, uirevision=revision, margin={"l": 44, "r": 12, "t": 30, "b": 30}).layout
    figure.update_layout(base.to_plotly_json())
    figure.update_annotations(font_size=12)
    figure.update_xaxes(showgrid=False, zeroline=False, nticks=4)
    figure.update_yaxes(gridcolor="rgba(138,147,160,0.22)", zeroline=False, nticks=4, rangemode="tozero")
    return figure
