"""The four methods as small drawings: blue is frozen, orange is trained. SVG text, used in the method cards and the comparison."""

from __future__ import annotations

from urllib.parse import quote

from studio.plots.style import FROZEN, TRAINED

GREY = "#8a93a0"


def _svg(body: str) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 132 64" width="132" height="64" fill="none">{body}</svg>'


def _box(x: float, y: float, width: float, height: float, colour: str, radius: float = 3) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}" fill="{colour}"/>'


def _line(*points: tuple[float, float]) -> str:
    path = " L".join(f"{x} {y}" for x, y in points)
    return f'<path d="M{path}" stroke="{GREY}" stroke-width="1.5"/>'


def _low_rank(x: float) -> str:
    """A down to the rank and B up from it: two trapezoids that meet in a narrow waist."""
    return f'<path d="M{x} 50 h36 l-12 -16 h-12 z" fill="{TRAINED}"/><path d="M{x + 12} 30 h12 l12 -16 h-36 z" fill="{TRAINED}"/>'


def lora() -> str:
    wires = _line((64, 62), (64, 56), (30, 56), (30, 50)) + _line((64, 56), (94, 56), (94, 50))
    join = _line((30, 14), (30, 7), (64, 7), (64, 2)) + _line((94, 14), (94, 7), (64, 7))
    return _svg(wires + join + _box(12, 14, 36, 36, FROZEN) + _low_rank(76))


def qlora() -> str:
    cells = "".join(_box(12 + 9.4 * column, 14 + 9.4 * row, 7.8, 7.8, FROZEN, 1.5) for row in range(4) for column in range(4))
    wires = _line((64, 62), (64, 56), (30, 56), (30, 51)) + _line((64, 56), (94, 56), (94, 50))
    join = _line((30, 14), (30, 7), (64, 7), (64, 2)) + _line((94, 14), (94, 7), (64, 7))
    return _svg(wires + join + cells + _low_rank(76))


def adapter() -> str:
    spine = _line((66, 62), (66, 54)) + _line((66, 42), (66, 38)) + _line((66, 12), (66, 2)) + _line((66, 42), (110, 42), (110, 7), (66, 7))
    bottleneck = f'<path d="M46 38 h40 l-11 -9 h-18 z" fill="{TRAINED}"/><path d="M57 25 h18 l11 -9 h-40 z" fill="{TRAINED}"/>'
    return _svg(spine + _box(36, 46, 60, 11, FROZEN) + bottleneck)


def prefix() -> str:
    rows = ""
    for row, y in enumerate((12, 36)):
        rows += f'<text x="2" y="{y + 13}" font-size="12" font-family="system-ui" fill="{GREY}">{"KV"[row]}</text>'
        rows += "".join(_box(18 + 16 * index, y, 13, 17, TRAINED if index < 3 else FROZEN) for index in range(7))
    return _svg(rows)


DRAWINGS = {"lora": lora, "qlora": qlora, "adapter": adapter, "prefix": prefix}


def card_css() -> str:
    """Rules that put each drawing above its option in the method radio, in DRAWINGS' order, and on its card in the comparison."""
    return "\n".join(
        f".method-cards label:nth-of-type({number})::before, .draw-{family} "
        f'{{ background-image: url("data:image/svg+xml,{quote(draw())}"); }}'
        for number, (family, draw) in enumerate(DRAWINGS.items(), 1)
    )
