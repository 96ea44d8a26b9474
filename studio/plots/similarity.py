"""Which directions two adapters share: phi(i, j) of their first i and j directions, beside the same for random matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from studio.plots.style import SEQUENTIAL, empty_figure, new_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

HEIGHT = 400


class SimilarityInfo(NamedTuple):
    """phi as rows i by columns j, each 0 to 1; `control` the same for Gaussian matrices of these shapes."""

    phi: list[list[float]]
    control: list[list[float]]
    first: str
    second: str


def similarity_info(report: dict[str, Any], first: str, second: str) -> SimilarityInfo:
    """`first` and `second` name the two adapters."""
    phi, control = ([[round(value, 4) for value in row] for row in report[name]] for name in ("phi", "control"))
    return SimilarityInfo(phi, control, first, second)


def similarity_figure(info: SimilarityInfo) -> go.Figure:
    """Two heat maps on one scale from 0 to 1."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    if not info.phi or not info.phi[0]:
        return empty_figure("These adapters share no module with directions to compare.", HEIGHT)
    figure = make_subplots(1, 2, subplot_titles=["these two adapters", "random matrices"], horizontal_spacing=0.12)
    rows, columns = list(range(1, len(info.phi) + 1)), list(range(1, len(info.phi[0]) + 1))
    hover = "first %{y} of one, first %{x} of the other<br>φ = %{z:.4f}<extra></extra>"
    for place, values in enumerate((info.phi, info.control), 1):
        figure.add_trace(go.Heatmap(z=values, x=columns, y=rows, coloraxis="coloraxis", hovertemplate=hover, xgap=1, ygap=1), 1, place)
    base = new_figure(HEIGHT, showlegend=False, hovermode="closest", margin={"l": 56, "r": 16, "t": 34, "b": 48}).layout
    figure.update_layout(base.to_plotly_json())
    bar = {"thickness": 12, "title": {"text": "φ"}, "outlinewidth": 0}
    figure.update_layout(coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": 1, "colorbar": bar})
    figure.update_xaxes(
        title_text=f"j, {_cut(info.second)}", showgrid=False, zeroline=False, showline=False, ticks="", dtick=_tick(len(columns))
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False, ticks="", dtick=_tick(len(rows)))
    figure.update_yaxes(title_text=f"i, {_cut(info.first)}", col=1)
    figure.update_annotations(font_size=13)
    return figure


def _tick(count: int) -> int:
    return 1 if count <= 16 else 8


def _cut(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"
