"""Tabs built when they are first looked at.

Gradio's client reads every component of a page before the page can be used, drawn or not, so a page of five tabs would pay for four that
nobody sees. Here a tab is an empty container until its first visit; then `build` runs once for that visitor (`gr.render`), and coming
back later finds the tab as it was left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gradio as gr
from gradio.blocks import BlockFunction
from gradio.context import LocalContext, get_blocks_context

from studio.ui.hidden import hidden_box

VISITED = "yes"


def build_on_visit(tab: gr.Tab, build: Callable[[], None]) -> gr.Textbox:
    """Leave `tab` empty until it is selected, then build it. Call inside it.

    Returns the box that says whether it was visited: an event that opens the tab with `gr.Tabs(selected=...)`, which gradio does not
    count as a selection, gives it VISITED.
    """
    visited = hidden_box("visited")
    tab.select(lambda: VISITED, None, visited, show_progress="hidden", queue=False)

    @gr.render(triggers=[visited.change], show_progress="minimal", queue=False)
    def show() -> None:
        build()
        _let_change()
        rendered = LocalContext.renderable.get(None)
        show_no_progress([event for event in _context().fns.values() if event.rendered_in is rendered], visited)

    fns = _context().fns
    fns[max(fns)].show_progress_on = [visited]  # the rendering itself: otherwise on all that is in the tab
    return visited


def show_no_progress(events: Iterable[BlockFunction], light: gr.Textbox) -> None:
    """Let events without a progress display tell their status to `light`, a box that holds next to nothing.

    At every change of any event's status gradio's client (6.31) copies every component that any event so far was to show progress on,
    hidden or not, with its whole value. Those are an event's outputs unless told otherwise: a form, figures, tables.
    """
    for event in events:
        if event.show_progress == "hidden":
            event.show_progress_on = [light]


def _let_change() -> None:
    """Open for input what a person changes. Gradio's client decides that for a page, but not for what is rendered into one later:
    whatever events write to would stay read-only, also what they read (seen with gradio 6.31)."""
    context, rendered = _context(), LocalContext.renderable.get(None)
    read = {block._id for event in context.fns.values() if event.rendered_in is rendered for block in event.inputs}
    for block in context.blocks.values():
        if block.rendered_in is rendered and block._id in read and getattr(block, "interactive", False) is None:
            block.interactive = True


def current_page() -> gr.Blocks:
    """The page being built. Inside a tab's `build`, its `load` happens once: when the tab has been built."""
    return _context().root_block


def on_visit(tab: gr.Tab) -> list[Any]:
    """Triggers, for `gr.on`, of every visit of a tab from inside its `build`: the first, for which it was built, and later ones."""
    return [current_page().load, tab.select]


def _context() -> Any:
    context = get_blocks_context()
    assert context is not None, "tabs are built while their page is"
    return context
