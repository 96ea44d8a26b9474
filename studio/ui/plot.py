"""A plot in the page: plotly.js draws what studio/plots made, into one element that stays.

Gradio's own Plot throws its figure away at every update and draws the next one twice, at a first and at the final size. Here an update
changes the figure that is there: zoom is kept where the figure's `uirevision` stays, and what nobody sees is not drawn until it is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.ui.assets import PLOTLY_SCRIPT

if TYPE_CHECKING:
    import plotly.graph_objects as go

NARROW = 560
"""Pixels: up to here a figure stands as its `layout.meta.narrow` says, where it says so (keys as for Plotly.relayout)."""
DRAW = """
const plot = element.querySelector('.plot');
let drawn = '', width = 0;
const fold = layout => {
  for (const [path, value] of Object.entries(layout.meta?.narrow ?? {})) {
    const keys = path.split(/[.[\\]]+/).filter(Boolean), last = keys.pop();
    keys.reduce((inner, key) => inner[key] ??= {}, layout)[last] = value;
  }
};
const draw = () => {
  const wanted = props.value || '';
  if (wanted && !plot.clientWidth) return;  // in a hidden tab: the observer comes back when it is shown
  if (wanted === drawn && plot.clientWidth === width) return;
  width = plot.clientWidth;
  drawn = wanted;
  if (!wanted) return window.Plotly.purge(plot);
  const figure = JSON.parse(wanted);
  if (width <= NARROW) fold(figure.layout);
  window.Plotly.react(plot, figure.data, {...figure.layout, width}, {displaylogo: false});
};
watch('value', draw);
new ResizeObserver(draw).observe(plot);
draw();
""".replace("NARROW", str(NARROW))


def build(elem_id: str, **options: Any) -> gr.HTML:
    """The plot's component. Its value is what `drawn` makes of a figure; empty, it holds nothing."""
    head = f'<script src="{PLOTLY_SCRIPT}"></script>'
    return gr.HTML("", html_template='<div class="plot"></div>', js_on_load=DRAW, head=head, padding=False, elem_id=elem_id, **options)


def drawn(figure: go.Figure) -> str:
    """The figure as the component's value."""
    return figure.to_json() or ""
