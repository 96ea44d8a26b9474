"""The Playground's widgets, named once. What they mean is in studio.ui.playground."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr

from studio.core.paths import StudioHome
from studio.ui.hidden import hidden_box
from studio.ui.play_sources import MOST_BESIDE, Sources, adapter_choices, read_sources
from studio.ui.studio import Studio

EXAMPLE = "Write a Python function named `clamp`.\n\nReturn value limited to the range from low to high."
HELD_AS = [("bf16 or fp32, as the machine computes", "none"), ("int8", "int8"), ("4 bits, NF4", "nf4"), ("4 bits, FP4", "fp4")]
SETTINGS = ("model", "quantization", "beside", "adapters", "system")


class PlayTools(NamedTuple):
    """Below the conversation."""

    render: gr.Button
    rendered: gr.HTML
    run_all: gr.Button
    diff: gr.Button
    difference: gr.HTML
    text: gr.Textbox
    look: gr.Button
    closer: gr.HTML
    file: gr.UploadButton
    table: gr.HTML
    csv: gr.File


class PlayForm(NamedTuple):
    """Everything a handler reads or fills. `kept` holds the conversation, `editing` the number of the message being changed."""

    model: gr.Dropdown
    quantization: gr.Dropdown
    beside: gr.Dropdown
    adapters: gr.Dropdown
    memory: gr.HTML
    prompt: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    system: gr.Textbox
    temperature: gr.Slider
    top_p: gr.Slider
    top_k: gr.Number
    length: gr.Number
    seed: gr.Number
    strength: gr.Slider
    blind: gr.Checkbox
    tests: gr.Textbox
    new: gr.Button
    export: gr.Button
    bring: gr.UploadButton
    unload: gr.Button
    kept: gr.Textbox
    editing: gr.Textbox
    unedit: gr.Button
    thread: Any = None
    current: Any = None
    tools: Any = None

    @property
    def inputs(self) -> set[Any]:
        """What a question depends on."""
        return {
            self.model, self.quantization, self.beside, self.adapters, self.prompt, self.system, self.temperature, self.top_p, self.top_k,
            self.length, self.seed, self.strength, self.blind, self.tests, self.kept, self.editing,
        }  # fmt: skip

    @property
    def settings(self) -> list[Any]:
        """What the browser remembers besides the conversation, in SETTINGS' order."""
        return [self.model, self.quantization, self.beside, self.adapters, self.system]

    def sources(self, home: StudioHome, values: dict[Any, Any]) -> Sources:
        """What is asked. Raises what read_sources raises."""
        return read_sources(
            home, values[self.model], values[self.quantization], values[self.adapters] or [], values[self.beside] or []
        )  # fmt: skip

    def sampling(self, values: dict[Any, Any]) -> dict[str, Any]:
        """The worker's sampling settings; an emptied field takes its default there."""
        read = {
            "temperature": values[self.temperature], "top_p": values[self.top_p], "top_k": values[self.top_k],
            "max_new_tokens": values[self.length], "seed": values[self.seed],
        }  # fmt: skip
        return {"temperature": 0.0, "seed": 0} | {key: value for key, value in read.items() if value is not None}


def build_form(studio: Studio) -> PlayForm:
    model = gr.Dropdown(
        studio.model_choices(), value="starter", label="Base model", allow_custom_value=True, elem_id="play-model",
        info="From the list, a hub id, a folder or a GGUF file.",
    )  # fmt: skip
    adapters = gr.Dropdown(
        adapter_choices(studio), value=[], multiselect=True, max_choices=MOST_BESIDE, allow_custom_value=True, label="Adapters beside it",
        info="Up to four: runs, or folders by their path. None asks the base alone.", elem_id="play-adapters",
    )  # fmt: skip
    quantization = gr.Dropdown(HELD_AS, value="none", label="Held in memory as", elem_id="play-quantization")
    beside = gr.Dropdown(
        HELD_AS, value=[], multiselect=True, max_choices=len(HELD_AS) - 1, label="The same base, also held as", elem_id="play-beside",
        info="To see what quantization changes: each is a copy in memory and a pane of its own, without adapters.",
    )  # fmt: skip
    memory = gr.HTML("", padding=False, elem_id="play-memory")
    prompt = gr.Textbox(EXAMPLE, label="Prompt", lines=5, max_lines=14, elem_id="prompt", info="Shift + Enter answers.")
    unedit = gr.Button("Cancel the edit", size="sm", visible=False, elem_id="cancel-edit")
    with gr.Row():
        ask = gr.Button("Answer", variant="primary", elem_id="ask-button")
        stop = gr.Button("Stop", elem_id="stop-answer")
    settings = _build_settings()
    with gr.Row(elem_classes="actions"):
        new = gr.Button("New conversation", size="sm", elem_id="new-conversation")
        export = gr.Button("Export", size="sm", elem_id="export-conversation")
        bring = gr.UploadButton("Import", size="sm", file_types=[".json"], elem_id="import-conversation")
        unload = gr.Button("Free the memory", size="sm", elem_id="free-memory")
    kept = hidden_box("conversation", "kept-conversation")
    editing = hidden_box("message being edited")
    tools = new, export, bring, unload, kept, editing, unedit
    return PlayForm(model, quantization, beside, adapters, memory, prompt, ask, stop, *settings, *tools)


def _build_settings() -> tuple[Any, ...]:
    with gr.Accordion("System prompt, sampling, strength", open=False):
        system = gr.Textbox("", label="System prompt", lines=2, info="Empty takes the run's own. Fixed once a conversation has begun.")
        temperature = gr.Slider(0, 2, value=0, step=0.05, label="Temperature", info="0 always takes the likeliest token.")
        top_p = gr.Slider(0.05, 1, value=1, step=0.05, label="Top-p", info="Only the likeliest tokens that add up to this share.")
        with gr.Row():
            top_k = gr.Number(0, label="Top-k", precision=0, min_width=90, info="0: all.")
            length = gr.Number(256, label="New tokens at most", precision=0, min_width=90)
            seed = gr.Number(0, label="Seed", precision=0, min_width=90, info="The same for every pane.")
        strength = gr.Slider(
            0, 2, value=1, step=0.05, label="Adapter strength", elem_id="strength",
            info="Scales what LoRA and bottleneck adapters add: 0 is the base, 1 as trained. DoRA and prefixes stay as trained.",
        )  # fmt: skip
        blind = gr.Checkbox(False, label="Blind: hide and shuffle which answer is whose until you have judged", elem_id="blind")
    with gr.Accordion("Tests for code", open=False):
        tests = gr.Textbox(
            "", label="Tests", lines=3, placeholder="assert clamp(5, 0, 3) == 3", elem_id="code-tests",
            info="Run after an answer's code, in the sandbox: asserts, or functions named test_.",
        )  # fmt: skip
    return system, temperature, top_p, top_k, length, seed, strength, blind, tests


def build_tools() -> PlayTools:
    with gr.Accordion("Code of all answers", open=False):
        with gr.Row(elem_classes="actions"):
            run_all = gr.Button("Run the last answers with the tests", size="sm", elem_id="run-all")
            diff = gr.Button("Compare the last answers line by line", size="sm", elem_id="diff-answers")
        difference = gr.HTML("", padding=False, elem_id="difference")
    with gr.Accordion("The prompt as the model sees it", open=False):
        render = gr.Button("Show text and tokens", size="sm", elem_id="render-prompt")
        rendered = gr.HTML("", padding=False, elem_id="rendered")
    with gr.Accordion("Look closer: what the adapter changed", open=False):
        text = gr.Textbox(
            "", label="Text", lines=3, elem_id="closer-text",
            info="Read as the answer to the last question, by base and adapters. Empty takes the first adapter's last answer.",
        )  # fmt: skip
        look = gr.Button("Look closer", size="sm", elem_id="look-closer")
        closer = gr.HTML("", padding=False, elem_id="closer")
    with gr.Accordion("Many prompts from a file", open=False):
        file = gr.UploadButton(
            "Answer a file of prompts", size="sm", file_types=[".txt", ".jsonl", ".json", ".csv"], elem_id="prompts-file"
        )
        table = gr.HTML("", padding=False, elem_id="prompts-table")
        csv = gr.File(label="Table", visible=False)
    return PlayTools(render, rendered, run_all, diff, difference, text, look, closer, file, table, csv)
