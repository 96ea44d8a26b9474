"""A box that nobody sees: what a page remembers, or one event hands to the next, without a gr.State and its heartbeat."""

from __future__ import annotations

from typing import Any

import gradio as gr

FIXED: dict[str, Any] = {"lines": 2, "max_lines": 2}
"""A box whose height may change lays the whole page out anew whenever it is filled, seen or not (gradio 6.31)."""


def hidden_box(label: str, elem_id: str | None = None) -> gr.Textbox:
    """An empty hidden text box."""
    return gr.Textbox("", visible="hidden", label=label, elem_id=elem_id, **FIXED)
