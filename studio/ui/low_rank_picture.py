"""A picture at a rank: drag the slider and see what few directions can say. The picture is drawn here, from formulas."""

from __future__ import annotations

import base64
import functools
import struct
import zlib
from typing import Any

import gradio as gr
import numpy as np

from studio.analysis.low_rank import PictureFactors, approximate_picture, factor_picture
from studio.ui import markup
from studio.ui.guard import guarded

HEIGHT, WIDTH = 180, 270
START = 8
INSTANT: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 8, "concurrency_id": "by-hand"}


def build(tab: gr.Tab) -> None:
    with gr.Row(elem_classes="two-columns", equal_height=False):
        with gr.Column(scale=4, min_width=300):
            rank = gr.Slider(0, HEIGHT, value=START, step=1, label="Rank kept", elem_id="picture-rank",
                             info="Each of the three colours keeps this many directions.")  # fmt: skip
        with gr.Column(scale=9, min_width=340):
            shown = gr.HTML("", padding=False, elem_id="low-rank-picture")
    tab.select(guarded(picture_html), rank, shown, **INSTANT)
    rank.input(guarded(picture_html), rank, shown, trigger_mode="always_last", **INSTANT)


def picture_html(rank: float) -> str:
    """The picture whole and at `rank`, with what it costs and loses."""
    numbers, info = approximate_picture(_factors(), int(rank))
    few = png_uri(np.clip(np.rint(numbers), 0, 255).astype(np.uint8))
    share = info.numbers_stored / info.numbers_whole
    cells = [
        markup.stat("Numbers stored", f"{info.numbers_stored:,}", f"of {info.numbers_whole:,}: {100 * share:.0f} %"),
        markup.stat("Energy kept", f"{100 * info.energy_kept:.2f} %", "of the squared values"),
        markup.stat("Relative error", f"{100 * info.relative_error:.2f} %", "the least that this rank allows"),
    ]
    text = (
        "LoRA writes a layer's change in the same way: few columns times few rows. What is smooth needs few; sharp slanted edges need many."
    )
    if share >= 1:
        text = "At this rank the factors hold as many numbers as the picture itself: nothing is saved any more."
    return (
        markup.heading("", "A picture of low rank", text) + '<div class="pictures">'
        f'<figure><img src="{_whole()}" alt="the whole picture"><figcaption>whole, rank {info.full_rank}</figcaption></figure>'
        f'<figure><img src="{few}" alt="the picture at rank {info.rank}"><figcaption>rank {info.rank}</figcaption></figure></div>'
        + markup.stats(cells)
    )  # fmt: skip


@functools.lru_cache(maxsize=1)
def _factors() -> PictureFactors:
    return factor_picture(landscape())


@functools.lru_cache(maxsize=1)
def _whole() -> str:
    return png_uri(landscape())


def landscape() -> np.ndarray:
    """Hills under an evening sun with its mirror in a lake, (HEIGHT, WIDTH, 3) uint8."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    sky = y[..., None] / HEIGHT
    picture = (1 - sky) * np.array([41.0, 72, 130]) + sky * np.array([255.0, 190, 130])
    sun = np.hypot(x - 190, y - 70)
    picture = np.where((sun < 24)[..., None], [255.0, 226, 150], picture + 70 * np.exp(-((sun / 48) ** 2))[..., None])
    for base, height, length, shift, colour in _HILLS:
        ridge = base - height * (np.sin(x / length + shift) + 0.45 * np.sin(2.7 * x / length + 2 * shift) + 0.2 * np.sin(9 * x / length))
        picture = np.where((y > ridge)[..., None], colour, picture)
    water = y > 142
    ripple = 12 * np.sin(y * 1.4 + 5 * np.sin(x / 23)) + 55 * np.exp(-(((x - 190) / 22) ** 2))
    picture = np.where(water[..., None], np.array([46.0, 84, 138]) + ripple[..., None], picture)
    return np.clip(picture, 0, 255).astype(np.uint8)


_HILLS: tuple[tuple[float, float, float, float, list[float]], ...] = (
    (98, 20, 34, 0.6, [106, 112, 160]),
    (116, 15, 26, 2.1, [70, 84, 132]),
    (136, 13, 19, 4.0, [38, 52, 88]),
)
"""From far to near: height of the ridge, its swing, its wavelength, its phase, its colour."""


def png_uri(pixels: np.ndarray) -> str:
    """A picture (height, width, 3) uint8 as a data URI; written by hand, since PNG is only zlib with a few headers."""
    height, width, _ = pixels.shape
    lines = np.zeros((height, 1 + 3 * width), dtype=np.uint8)
    lines[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
