"""Small pieces of HTML the pages share. Every text that goes in is escaped here; classes are styled in assets/theme.css."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

escape = html.escape


def stat(label: str, value: str, note: str = "", kind: str = "") -> str:
    """A figure with its label: a cell of a `stats` row."""
    small = f"<small>{escape(note)}</small>" if note else ""
    return f'<div class="stat {kind}"><span>{escape(label)}</span><b>{escape(value)}</b>{small}</div>'


def stats(cells: Iterable[str]) -> str:
    return f'<div class="stats">{"".join(cells)}</div>'


def progress_bar(share: float, label: str, kind: str = "") -> str:
    """A progress bar with its value told to screen readers. `share` from 0 to 1."""
    percent = round(100 * min(max(share, 0.0), 1.0), 1)
    return (
        f'<div class="progress {kind}" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}" '
        f'aria-label="{escape(label)}"><i style="width:{percent}%"></i></div>'
    )


def waiting(phrase: str) -> str:
    """A bar that moves while nobody knows how long, with what is being done in words."""
    return f'{progress_bar(0, phrase, "waiting")}<p class="how">{escape(phrase)}</p>'


def stacked_bar(parts: Sequence[tuple[str, float]], limit: float, marks: Sequence[tuple[str, float]] = ()) -> str:
    """Labelled parts of a whole drawn to the scale of the larger of their sum and `limit`, which is drawn as a line."""
    total = sum(value for _, value in parts)
    scale = max(total, limit, 1e-9) * 1.02
    bars = "".join(
        f'<i class="part part-{index}" style="width:{100 * value / scale:.2f}%" title="{escape(label)}"></i>'
        for index, (label, value) in enumerate(parts)
    )
    lines = "".join(f'<em style="left:{100 * value / scale:.2f}%"><span>{escape(label)}</span></em>' for label, value in marks if value)
    return f'<div class="stacked"><div class="bars">{bars}</div>{lines}</div>'


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A plain table; cells are escaped, use `raw_table` for cells that hold markup."""
    return raw_table(headers, ([escape(str(cell)) for cell in row] for row in rows), kind)


def raw_table(headers: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table-wrap"><table class="plain {kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def notice(text: str, kind: str = "info", title: str = "") -> str:
    """A boxed message: kind info, good, warn or bad. Newlines become line breaks."""
    head = f"<b>{escape(title)}</b> " if title else ""
    return f'<div class="notice {kind}" role="status">{head}{escape(text).replace(chr(10), "<br>")}</div>'


def empty(text: str, action: str = "") -> str:
    """An empty state: what is missing, and what to do next."""
    more = f"<span>{escape(action)}</span>" if action else ""
    return f'<div class="empty"><b>{escape(text)}</b>{more}</div>'


def heading(number: str, title: str, text: str = "") -> str:
    """A section's heading inside a page, with its step number where it has one."""
    mark = f"<i>{escape(number)}</i>" if number else ""
    more = f"<p>{escape(text)}</p>" if text else ""
    return f'<div class="section-head">{mark}<div><h3>{escape(title)}</h3>{more}</div></div>'


def sparkline(values: Sequence[float], width: int = 96, height: int = 24) -> str:
    """A line through `values` as an inline SVG; an empty one for fewer than two."""
    if len(values) < 2:
        return f'<svg class="spark" width="{width}" height="{height}" aria-hidden="true"></svg>'
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    step = (width - 4) / (len(values) - 1)
    points = " ".join(f"{2 + index * step:.1f},{2 + (height - 4) * (high - value) / span:.1f}" for index, value in enumerate(values))
    return (
        f'<svg class="spark" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="loss from {values[0]:.3g} to {values[-1]:.3g}"><polyline points="{points}"/></svg>'
    )
