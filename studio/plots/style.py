"""Colours and layout every figure shares.

Blue is what is frozen (the base), orange what is trained (the adapter): in figures, drawings and tables alike, told apart also by the
colour-blind. Backgrounds are transparent; text and grid take the page's colours through assets/theme.css, so one figure serves light
and dark.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

FROZEN = "#3b82d6"
TRAINED = "#e8751a"
EVALUATION = "#0f9f8f"
MUTED = "#8a93a0"
BAD = "#d64545"
SERIES = (TRAINED, FROZEN, EVALUATION, "#9b5de5", "#c2a000", "#d6336c", "#5f6b7a", "#2f9e44")
SEQUENTIAL = [[0.0, "#fff3e6"], [0.25, "#fdc48a"], [0.5, "#f08c3a"], [0.75, "#bf4e0f"], [1.0, "#5c1f03"]]
DIVERGING = [[0.0, "#1f5fb0"], [0.5, "#f2f2f2"], [1.0, "#c4560c"]]


def new_figure(height: int = 320, **layout: Any) -> go.Figure:
    """An empty figure in the studio's style. Import of plotly happens here, when the first figure is drawn."""
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        template="none", height=height, margin={"l": 56, "r": 16, "t": 12, "b": 44}, paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)", font={"size": 12, "color": MUTED, "family": "system-ui, sans-serif"}, hovermode="x unified",
        hoverlabel={"font": {"size": 12}}, legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}, showlegend=True,
    )  # fmt: skip
    figure.update_xaxes(showgrid=False, zeroline=False, showline=True, linecolor=MUTED, ticks="outside", ticklen=4)
    figure.update_yaxes(gridcolor="rgba(138,147,160,0.22)", zeroline=False, ticks="", automargin=True)
    figure.update_layout(**layout)
    return figure


def plain_figure(traces: list[dict[str, Any]], height: int = 320, **layout: Any) -> go.Figure:
    """A figure from plain traces and layout, which plotly does not check: a tenth of the time, for what is drawn every second."""
    import plotly.graph_objects as go

    return go.Figure({"data": traces, "layout": _merged(_base_layout(height), layout)}, _validate=False)


@functools.cache
def _base_layout(height: int) -> dict[str, Any]:
    return new_figure(height).to_plotly_json()["layout"]


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` on top, inner dicts merged; neither is changed."""
    inner = {
        key: _merged(base[key], value) for key, value in changes.items() if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return {**base, **changes, **inner}


def empty_figure(text: str, height: int = 320) -> go.Figure:
    """A figure that says in words what is missing and what to do."""
    figure = new_figure(height, showlegend=False)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 14, "color": MUTED})
    return figure
