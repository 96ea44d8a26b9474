"""A figure as every laboratory shows it: the plot, a sentence that says how to read it, and downloads as PNG, SVG and CSV.

The CSV lies in the link itself; PNG and SVG are drawn by the page's own Plotly from what is on the screen. Nothing goes to the server.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import gradio as gr

from studio.ui import markup, plot

DOWNLOAD = """
element.addEventListener('click', event => {
  const button = event.target.closest('[data-format]');
  if (!button) return;
  const plot = document.querySelector('#' + button.dataset.plot + ' .js-plotly-plot');
  if (!plot || !window.Plotly) return;
  const dark = document.body.classList.contains('dark');
  const layout = {...plot.layout, paper_bgcolor: dark ? '#0b0f19' : '#ffffff', width: plot.clientWidth, height: plot.clientHeight};
  window.Plotly.downloadImage({data: plot.data, layout: layout}, {format: button.dataset.format, filename: button.dataset.name,
    width: plot.clientWidth, height: plot.clientHeight, scale: 2});
});
"""


def quiet(line: str = "analysis") -> dict[str, Any]:
    """Settings of an event that fills figures: no animation, four at once in `line`."""
    return {"show_progress": "hidden", "concurrency_limit": 4, "concurrency_id": line}


class Figure(NamedTuple):
    """A plot and the line under it, to be filled together by `filled`."""

    plot: gr.HTML
    caption: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        return [self.plot, self.caption]


def build(elem_id: str) -> Figure:
    """Widgets of a figure, hidden until they are filled. `elem_id` is also the name of its downloads."""
    drawing = plot.build(elem_id, visible=False, elem_classes="lab-figure")
    return Figure(drawing, gr.HTML("", padding=False, js_on_load=DOWNLOAD, elem_id=f"{elem_id}-caption"))


def filled(elem_id: str, figure: Any, title: str, sentence: str, table: tuple[Sequence[str], Iterable[Sequence[Any]]]) -> list[Any]:
    """Values of a figure's plot and caption. `table` is its data: column names and rows."""
    return [gr.update(value=plot.drawn(figure), visible=True), caption_html(elem_id, title, sentence, table)]


def hidden() -> list[Any]:
    return [gr.update(visible=False), ""]


def caption_html(elem_id: str, title: str, sentence: str, table: tuple[Sequence[str], Iterable[Sequence[Any]]]) -> str:
    buttons = "".join(
        f'<button type="button" data-format="{kind}" data-plot="{elem_id}" data-name="{elem_id}">{kind.upper()}</button>'
        for kind in ("png", "svg")
    )
    return (
        f'<figcaption class="lab-caption"><p><b>{markup.escape(title)}</b> {markup.escape(sentence)}</p>'
        f'<span class="downloads">{buttons}{csv_link(elem_id, *table)}</span></figcaption>'
    )


def csv_link(name: str, headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A link that holds its own file."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(headers)
    writer.writerows(rows)
    data = base64.b64encode(text.getvalue().encode()).decode()
    return f'<a download="{markup.escape(name)}.csv" href="data:text/csv;base64,{data}">CSV</a>'
