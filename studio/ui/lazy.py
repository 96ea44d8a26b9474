"""Tabs built when they are first looked at.

Gradio's client reads every component of a page before the page can be used, drawn or not, so a page of five tabs would pay for four that
nobody sees. Here a tab is an empty container until its first visit; then `build` runs once for that visitor (`gr.render`), and coming
back later finds the tab as it was left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.context import LocalContext, get_blocks_context

VISITED = "yes"


def build_on_visit(tab: gr.Tab, build: Callable[[], None]) -> gr.Textbox:
    """Leave `tab` empty until it is selected, then build it. Call inside it.

    Returns the box that says whether it was visited: an event that opens the tab with `gr.Tabs(selected=...)`, which gradio does not
    count as a selection, gives it VISITED.
    """
    visited = gr.Textbox("", visible="hidden", label="visited")
    tab.select(lambda: VISITED, None, visited, show_progress="hidden", queue=False)

    @gr.render(triggers=[visited.change], show_progress="minimal", queue=False)
    def show() -> None:
        build()
        _let_change()

    # Gradio's client copies, at every step of any event, what events show progress on: of a whole tab, all that is in it.
    fns = _context().fns  # the rendering itself is the last of them
    fns[max(fns)].show_progress_on = [visited]
    return visited


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
