"""A heat map of layers by modules as a table of buttons: exact values in the cells, keyboard and screen readers served, one click away.

A plot cannot tell which cell was pressed; this sends {"module", "layer"} with the HTML component's submit event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gradio as gr

from studio.ui import markup
from studio.ui.figure import csv_link

CELL_CLICK = """
const choose = cell => {
  [...element.querySelectorAll('button.chosen, button[tabindex="0"]'), cell].forEach(other => {
    other.classList.toggle('chosen', other === cell);
    other.setAttribute('aria-pressed', other === cell);
    other.tabIndex = other === cell ? 0 : -1;
  });
  trigger('submit', {module: cell.dataset.module, layer: cell.dataset.layer});
};
element.addEventListener('click', event => { const cell = event.target.closest('button[data-module]'); if (cell) choose(cell); });
element.addEventListener('keydown', event => {
  const cell = event.target.closest('button[data-module]');
  const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
  if (!cell || !step) return;
  event.preventDefault();
  const row = cell.closest('tr').rowIndex + step[0], column = cell.closest('td').cellIndex + step[1];
  const next = cell.closest('table').rows[row]?.cells[column]?.querySelector('button');
  if (next) { next.tabIndex = 0; cell.tabIndex = -1; next.focus(); }
});
"""
ORDER = ("q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "query_key_value", "o_proj", "out_proj", "dense", "gate_proj", "up_proj",
         "gate_up_proj", "fc1", "c_fc", "down_proj", "fc2", "c_proj")  # fmt: skip
"""Modules in the order in which a layer uses them; others follow as they come."""


class Cell(NamedTuple):
    """One module: its full name, stack and layer (None outside numbered layers), module path, value (None where undefined)."""

    name: str
    stack: str
    layer: int | None
    module: str
    value: float | None


class HeatInfo(NamedTuple):
    """Rows (stack, layer), columns (module paths), cells by both, the range of the values, and how values are written."""

    rows: list[tuple[str, int | None]]
    columns: list[str]
    cells: dict[tuple[str, int | None, str], Cell]
    low: float
    high: float
    unit: str


def build(elem_id: str) -> gr.HTML:
    return gr.HTML("", elem_id=elem_id, js_on_load=CELL_CLICK, padding=False, elem_classes="heat-map")


def heat_info(cells: Sequence[Cell], unit: str) -> HeatInfo:
    """Lay cells out; rows by stack and layer, columns in the order of a layer's computation."""
    rows = sorted({(cell.stack, cell.layer) for cell in cells}, key=lambda row: (row[0], row[1] is None, row[1] or 0))
    columns = sorted(dict.fromkeys(cell.module for cell in cells), key=_place)
    values = [cell.value for cell in cells if cell.value is not None] or [0.0]
    placed = {(cell.stack, cell.layer, cell.module): cell for cell in cells}
    return HeatInfo(rows, columns, placed, min(values), max(values), unit)


def _place(module: str) -> int:
    short = module.rsplit(".", 1)[-1]
    return ORDER.index(short) if short in ORDER else len(ORDER)


class Words(NamedTuple):
    """What surrounds a heat map: its title, how to read it, what the two ends of the scale mean, the name of its download."""

    title: str
    sentence: str
    low: str
    high: str
    file: str


def heat_html(info: HeatInfo, words: Words, chosen: str, tone: str = "frozen", digits: int = 1) -> str:
    """The table. `chosen` is the full name of the module looked at; tone "frozen" is blue, "trained" orange; dark is the high end.

    Where all values are zero there is no scale and no colour.
    """
    head = "".join(f'<th scope="col" title="{markup.escape(column)}">{markup.escape(short_name(column))}</th>' for column in info.columns)
    body = "".join(_row(info, row, chosen, digits) for row in info.rows)
    rows = [(cell.stack, cell.layer, cell.module, cell.value) for cell in info.cells.values()]
    download = csv_link(words.file, ("stack", "layer", "module", f"value ({info.unit})"), rows)
    scale = _scale_html(info, words, digits)
    return (
        f'<figure class="heat {tone}"><figcaption class="lab-caption"><p><b>{markup.escape(words.title)}</b> '
        f'{markup.escape(words.sentence)}</p><span class="downloads">{download}</span></figcaption>{scale}<div class="heat-wrap">'
        f'<table><thead><tr><th scope="col">layer</th>{head}</tr></thead><tbody>{body}</tbody></table></div></figure>'
    )


def _scale_html(info: HeatInfo, words: Words, digits: int) -> str:
    if _all_zero(info):
        return ""
    low, high = (
        f"<span>{value:.{digits}f} {markup.escape(word)}</span>" for value, word in ((info.low, words.low), (info.high, words.high))
    )
    return f'<div class="heat-scale">{low}<i></i>{high}</div>'


def _all_zero(info: HeatInfo) -> bool:
    return info.low == info.high == 0


def _row(info: HeatInfo, row: tuple[str, int | None], chosen: str, digits: int) -> str:
    several = len({stack for stack, _ in info.rows}) > 1
    name = "–" if row[1] is None else str(row[1])
    label = f"{row[0].rsplit('.', 1)[-1] if '.' in row[0] else row[0]} {name}" if several else name
    cells = "".join(_cell(info, info.cells.get((*row, column)), chosen, digits) for column in info.columns)
    return f'<tr><th scope="row">{markup.escape(label)}</th>{cells}</tr>'


def _cell(info: HeatInfo, cell: Cell | None, chosen: str, digits: int) -> str:
    if cell is None:
        return "<td></td>"
    span = info.high - info.low
    alike = 0.0 if _all_zero(info) else 0.5
    share = alike if cell.value is None or span <= 0 else (cell.value - info.low) / span
    text = "–" if cell.value is None else f"{cell.value:.{digits}f}"
    exact = "no value" if cell.value is None else f"{cell.value:.6g} {info.unit}"
    picked, ink = cell.name == chosen, "ink" if share > 0.55 else ""
    layer = "" if cell.layer is None else cell.layer
    return (
        f'<td><button type="button" class="{ink}{" chosen" if picked else ""}" style="--t:{share:.3f}" '
        f'data-module="{markup.escape(cell.name)}" data-layer="{layer}" '
        f'aria-pressed="{str(picked).lower()}" tabindex="{0 if picked else -1}" '
        f'title="{markup.escape(f"{cell.name}: {exact}")}">{text}</button></td>'
    )


def short_name(module: str) -> str:
    """self_attn.q_proj -> q."""
    return module.rsplit(".", 1)[-1].removesuffix("_proj")


def picked(event: gr.EventData) -> str:
    """The cell that was pressed, as "layer|module" for a hidden box."""
    data: dict[str, Any] = event._data
    return f"{data.get('layer', '')}|{data.get('module', '')}"


def split_picked(text: str) -> tuple[int | None, str]:
    """Layer and full name of what `picked` gave."""
    layer, _, module = text.partition("|")
    return (int(layer) if layer.isdigit() else None), module
