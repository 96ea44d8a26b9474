"""What one tab starts and another shows, and what the browser keeps: hidden boxes outside the tabs, there before a tab is built."""

from __future__ import annotations

from typing import NamedTuple

import gradio as gr

from studio.ui.hidden import hidden_box


class Links(NamedTuple):
    """The boxes, and the tabs themselves. Made outside the tabs: one inside is not read before its tab is first looked at."""

    tabs: gr.Tabs
    show_run: gr.Textbox
    """Id of the run that was started last, to look at on the Runs tab."""
    play_run: gr.Textbox
    """Id of a run whose adapter the Playground answers with; emptied by it, so that asking for the same run again is heard."""
    last_run: gr.BrowserState
    conversation: gr.BrowserState


def build(tabs: gr.Tabs) -> Links:
    return Links(
        tabs,
        hidden_box("run to show"),
        hidden_box("run to answer with"),
        gr.BrowserState("", storage_key="peft-studio-run", secret="peft-studio"),
        gr.BrowserState({}, storage_key="peft-studio-conversation", secret="peft-studio"),
    )
