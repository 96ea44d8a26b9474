"""A run's vital signs in small figures: learning rate, gradient norm, tokens per second, memory measured beside planned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from studio.core.records import StepRecord
from studio.plots.style import FROZEN, MUTED, TRAINED, empty_figure, plain_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go


GAP = 0.06
WIDTH = (1 - 3 * GAP) / 4
NARROW_GAP, NARROW_ROW, NARROW_HEIGHT = 0.14, 0.38, 340
GRID = "rgba(138,147,160,0.22)"
AXIS = {"zeroline": False, "nticks": 4, "showline": False, "ticks": "", "automargin": False, "exponentformat": "e"}


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
    """Four small plots in one figure, so that one update carries them all: in a row, and on a narrow page two by two.

    `layout.meta.narrow` holds the changes of layout that a narrow page makes (the server does not know how wide it is).
    """
    signs = [
        ("learning rate", info.learning_rate, TRAINED), ("gradient norm", info.grad_norm, TRAINED),
        ("tokens / s", info.tokens_per_s, FROZEN), ("memory, GB", info.memory_gb, FROZEN),
    ]  # fmt: skip
    if not any(values for _, values, _ in signs):
        return empty_figure("Nothing measured yet.", 180)
    traces, titles = [], []
    layout: dict[str, Any] = {"showlegend": False, "uirevision": revision, "margin": {"l": 44, "r": 12, "t": 30, "b": 30}}
    for place, (name, values, colour) in enumerate(signs):
        left, right = place * (WIDTH + GAP), place * (WIDTH + GAP) + WIDTH
        number = str(place + 1) if place else ""
        x, y = [step for step, _ in values], [float(f"{value:.4g}") for _, value in values]
        traces.append({
            "type": "scatter", "x": x, "y": y, "name": name, "mode": "lines", "line": {"color": colour, "width": 1.8},
            "xaxis": f"x{number}", "yaxis": f"y{number}",
        })  # fmt: skip
        layout[f"xaxis{number}"] = {**AXIS, "domain": [left, right], "anchor": f"y{number}", "showgrid": False}
        layout[f"yaxis{number}"] = {**AXIS, "anchor": f"x{number}", "gridcolor": GRID, "rangemode": "tozero"}
        titles.append(_title(name, (left + right) / 2))
    layout["annotations"] = titles
    layout["meta"] = {"narrow": _narrow_layout(len(signs))}
    if info.planned_gb:
        line = {"type": "line", "xref": "x4 domain", "x0": 0, "x1": 1, "yref": "y4", "y0": info.planned_gb, "y1": info.planned_gb}
        layout["shapes"] = [{**line, "line": {"color": MUTED, "dash": "dot"}}]
        layout["annotations"] = [*titles, {
            "text": "planned", "xref": "x4 domain", "x": 1, "xanchor": "right", "yref": "y4", "y": info.planned_gb, "yanchor": "top",
            "showarrow": False, "font": {"size": 12},
        }]  # fmt: skip
    return plain_figure(traces, 190, **layout)


def _narrow_layout(count: int) -> dict[str, Any]:
    """Two columns, for Plotly.relayout."""
    changes: dict[str, Any] = {"height": NARROW_HEIGHT}
    width = (1 - NARROW_GAP) / 2
    for place in range(count):
        number = str(place + 1) if place else ""
        left, top = (place % 2) * (width + NARROW_GAP), 1.0 if place < 2 else NARROW_ROW
        changes |= {
            f"xaxis{number}.domain": [left, left + width], f"yaxis{number}.domain": [top - NARROW_ROW, top],
            f"annotations[{place}].x": left + width / 2, f"annotations[{place}].y": top,
        }  # fmt: skip
    return changes


def _title(text: str, x: float) -> dict[str, Any]:
    place = {"xref": "paper", "yref": "paper", "x": x, "y": 1, "xanchor": "center", "yanchor": "bottom"}
    return {"text": text, "showarrow": False, "font": {"size": 12}, **place}
