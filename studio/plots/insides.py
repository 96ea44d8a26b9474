"""What a prompt does inside an adapter or a prefix: active units, the size of what is added, the attention that goes to the prefix.

Made of the analysis' report (dicts). Units carry no order of their own, so each row is sorted, and drawn thinned where it is very wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from studio.plots.style import FROZEN, SEQUENTIAL, TRAINED, empty_figure, new_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

HEIGHT = 340
DRAWN_UNITS = 512
SILENT = "#8a93a0"
LINES = {"MLP": "solid", "attention": "dot"}
BAR = {"thickness": 12, "outlinewidth": 0}


class UnitsRows(NamedTuple):
    """One kind of place. Per layer, most active unit first: on how many tokens each unit is active, and its number."""

    layers: list[int]
    counts: list[list[int]]
    units: list[list[int]]


class UnitsInfo(NamedTuple):
    """Rows by kind of place ("attention", "MLP"), thinned to DRAWN_UNITS; `total`, `silent` and `always` count all units."""

    rows: dict[str, UnitsRows]
    tokens: int
    total: int
    silent: int
    always: int


class NormsInfo(NamedTuple):
    """Per kind of place ("MLP", "attention"): layers, mean norms of h and h_adapter, mean ratio in % (None where h is zero)."""

    layers: dict[str, list[int]]
    hidden: dict[str, list[float]]
    change: dict[str, list[float]]
    percent: dict[str, list[float | None]]


class MassInfo(NamedTuple):
    """Share of attention on the prefix, rows of layers by columns of heads, 0 to 1; what an even spread would give it."""

    layers: list[int]
    mass: list[list[float]]
    even: float


def kind_of(place: str) -> str:
    """ "attention" or "MLP", by the name of the wrapped module."""
    return "attention" if "attn" in place or "attention" in place else "MLP"


def units_info(report: dict[str, Any]) -> UnitsInfo:
    rows: dict[str, UnitsRows] = {}
    for place in report["places"]:
        active = place["active"]
        order = _thinned(sorted(range(len(active)), key=lambda unit: (-active[unit], unit)))
        kind = rows.setdefault(kind_of(place["place"]), UnitsRows([], [], []))
        kind.layers.append(place["layer"])
        kind.counts.append([active[unit] for unit in order])
        kind.units.append(order)
    every = [count for place in report["places"] for count in place["active"]]
    return UnitsInfo(rows, report["tokens"], len(every), every.count(0), every.count(report["tokens"]))


def _thinned(order: list[int]) -> list[int]:
    """At most DRAWN_UNITS of them, evenly spaced, both ends among them."""
    if len(order) <= DRAWN_UNITS:
        return order
    last = len(order) - 1
    return [order[round(index * last / (DRAWN_UNITS - 1))] for index in range(DRAWN_UNITS)]


def norms_info(report: dict[str, Any]) -> NormsInfo:
    info = NormsInfo({}, {}, {}, {})
    for place in report["places"]:
        kind = kind_of(place["place"])
        ratio = place["ratio"]
        values = (
            place["layer"],
            _short(place["hidden_norm"]),
            _short(place["change_norm"]),
            None if ratio is None else _short(100 * ratio),
        )
        for column, value in zip(info, values, strict=True):
            column.setdefault(kind, []).append(value)
    return info


def mass_info(report: dict[str, Any]) -> MassInfo:
    return MassInfo(list(report["layers"]), [[round(value, 4) for value in row] for row in report["mass"]], report["even_share"])


def units_figure(info: UnitsInfo) -> go.Figure:
    """A heat map a kind of place: layers by units, from the most to the least active; grey where a unit is silent on every token."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    if not info.total:
        return empty_figure("This adapter has no units.", HEIGHT)
    titles = [f"after {'the ' if kind == 'MLP' else ''}{kind}" for kind in info.rows] if len(info.rows) > 1 else None
    figure = make_subplots(1, len(info.rows), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.05)
    for column, (kind, rows) in enumerate(info.rows.items(), 1):
        hover = f"layer %{{y}}, {kind}, unit %{{customdata}}<br>active on %{{z}} of {info.tokens} tokens<extra></extra>"
        x = list(range(1, len(rows.counts[0]) + 1))
        heat = go.Heatmap(z=rows.counts, x=x, y=rows.layers, customdata=rows.units, coloraxis="coloraxis", hovertemplate=hover)
        figure.add_trace(heat, 1, column)
    first = 0.5 / info.tokens
    scale = [[0.0, SILENT], [first, SILENT], [first, SEQUENTIAL[0][1]], *SEQUENTIAL[1:]]
    bar = {**BAR, "tickvals": [0, info.tokens / 2, info.tokens], "ticktext": ["0 %", "50 %", "100 %"]}
    _lay_out(figure, max(len(rows.layers) for rows in info.rows.values()))
    figure.update_layout(coloraxis={"colorscale": scale, "cmin": 0, "cmax": info.tokens, "colorbar": bar})
    figure.update_xaxes(title_text="units, sorted")
    return figure


def norms_figure(info: NormsInfo) -> go.Figure:
    """|h| in blue and |h_adapter| in orange by layer, on a logarithmic axis: their distance is the ratio."""
    import plotly.graph_objects as go

    if not any(value > 0 for values in info.change.values() for value in values):
        return empty_figure("The adapter adds exactly nothing yet: it is at its start.", HEIGHT)
    figure = new_figure(HEIGHT, hovermode="x unified", xaxis_title="layer", yaxis_title="norm, mean over tokens")
    for kind, layers in info.layers.items():
        name = f", {kind}" if len(info.layers) > 1 else ""
        rows = (
            (f"h{name}", info.hidden, FROZEN, "%{y:.4g}"),
            (f"h_adapter{name}", info.change, TRAINED, "%{y:.4g} (%{customdata:.3g} % of h)"),
        )
        for title, values, colour, hover in rows:
            line = {"color": colour, "width": 2.2, "dash": LINES[kind]}
            figure.add_trace(
                go.Scatter(x=layers, y=[value or None for value in values[kind]], customdata=info.percent[kind], name=title, line=line,
                           mode="lines+markers", marker={"size": 5}, hovertemplate=hover)
            )  # fmt: skip
    figure.update_yaxes(type="log", dtick=1, exponentformat="power")
    return figure


def mass_figure(info: MassInfo) -> go.Figure:
    """Layers by heads on a scale from 0 to 1."""
    import plotly.graph_objects as go

    if not info.mass or not info.mass[0]:
        return empty_figure("No head's attention was seen.", HEIGHT)
    heads = len(info.mass[0])
    hover = "layer %{y}, head %{x}<br>%{z:.2%} of its attention is on the prefix<extra></extra>"
    heat = go.Heatmap(z=info.mass, x=list(range(heads)), y=info.layers, coloraxis="coloraxis", hovertemplate=hover, xgap=1, ygap=1)
    figure = go.Figure(heat)
    _lay_out(figure, len(info.layers))
    bar = {**BAR, "tickvals": [0, 0.5, 1], "ticktext": ["0 %", "50 %", "100 %"]}
    figure.update_layout(coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": 1, "colorbar": bar})
    figure.update_xaxes(title_text="head", dtick=1 if heads <= 16 else 8)
    return figure


def _lay_out(figure: go.Figure, layers: int) -> None:
    """The studio's layout for heat maps of so many layers, the first on top."""
    height = max(HEIGHT, min(90 + 16 * layers, 720))
    figure.update_layout(
        new_figure(height, showlegend=False, hovermode="closest", margin={"l": 52, "r": 16, "t": 28, "b": 48}).layout.to_plotly_json()
    )
    figure.update_xaxes(showgrid=False, zeroline=False, showline=False, ticks="")
    figure.update_yaxes(showgrid=False, zeroline=False, ticks="", autorange="reversed", dtick=1 if layers <= 16 else 5)
    figure.update_layout(yaxis_title="layer")
    figure.update_annotations(font_size=13)


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def largest(values: Sequence[Sequence[float]]) -> tuple[int, int]:
    """Row and column of the largest of `values`."""
    return max(((row, column) for row, line in enumerate(values) for column in range(len(line))), key=lambda at: values[at[0]][at[1]])
