"""The Playground tab: one prompt, the base and the adapted answer side by side, from one model, with one seed.

The worker holds the model in its own process; a run that starts ends that process first. What is asked and answered stays on the page.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import gradio as gr

from studio.core.errors import PlayError
from studio.core.units import show_duration
from studio.jobs import store
from studio.ui import markup
from studio.ui.guard import guarded
from studio.ui.studio import Studio

REDRAW_S = 0.08
EXAMPLE = "Write a Python function named `clamp`.\n\nReturn value limited to the range from low to high."


class PlaygroundTab(NamedTuple):
    run: gr.Dropdown
    panes: gr.HTML


def build(studio: Studio) -> PlaygroundTab:
    with gr.Row(elem_classes="two-columns", equal_height=False):
        with gr.Column(scale=4, min_width=300):
            run = gr.Dropdown(run_choices(studio), label="Adapted by", info="A run whose adapter answers beside its base model.", elem_id="play-run")
            prompt = gr.Textbox(EXAMPLE, label="Prompt", lines=5, max_lines=14, elem_id="prompt", info="Ctrl + Enter answers.")
            with gr.Row():
                ask = gr.Button("Answer", variant="primary", elem_id="ask-button")
                stop = gr.Button("Stop", elem_id="stop-answer")
            with gr.Accordion("Sampling", open=False):
                temperature = gr.Slider(0, 2, value=0, step=0.05, label="Temperature", info="0 always takes the likeliest token.")
                top_p = gr.Slider(0.05, 1, value=1, step=0.05, label="Top-p", info="Only the likeliest tokens that add up to this share.")
                with gr.Row():
                    length = gr.Number(256, label="New tokens at most", precision=0)
                    seed = gr.Number(0, label="Seed", precision=0, info="The same for every pane.")
            system = gr.Textbox("", label="System prompt", lines=2, info="Empty takes the run's own.")
            unload = gr.Button("Free the memory", size="sm")
        with gr.Column(scale=9, min_width=340):
            panes = gr.HTML(markup.empty("Nothing asked yet", "Pick a run, type a prompt and press Answer."), elem_id="panes", padding=False)
    inputs = [run, prompt, system, temperature, top_p, length, seed]
    handler = guarded(lambda *values: answer(studio, *values))

    def stream(*values: Any) -> Iterator[str]:
        yield from handler(*values)

    asking = gr.on([ask.click, prompt.submit], stream, inputs, panes, concurrency_limit=4, concurrency_id="play", show_progress="minimal")
    stop.click(None, None, None, cancels=[asking])
    unload.click(guarded(lambda: free(studio)), None, None)
    return PlaygroundTab(run, panes)


def connect(studio: Studio, tabs: gr.Tabs, button: gr.Button, selected: gr.Textbox, tab: PlaygroundTab) -> None:
    """'Open in Playground' on a run; and the list of runs kept fresh whenever the tab is opened."""
    button.click(lambda run_id: [gr.update(choices=run_choices(studio), value=run_id), gr.Tabs(selected="playground")], selected, [tab.run, tabs],
                 show_progress="hidden")  # fmt: skip
    tab.run.focus(lambda: gr.update(choices=run_choices(studio)), None, tab.run, show_progress="hidden")


def run_choices(studio: Studio) -> list[tuple[str, str]]:
    """Runs whose adapter can answer, newest first."""
    runs = [run for run in store.list_runs(studio.home) if run.status.is_over]
    return [(f"{run.name} · {run.created:%d %b %H:%M}", run.id) for run in runs if (studio.home.runs / run.id / "adapter" / "adapter_config.json").is_file()]


def free(studio: Studio) -> None:
    studio.play.close()
    gr.Info("The playground's model is unloaded and its memory is free.", duration=4)


def answer(studio: Studio, run_id: str, prompt: str, system: str, temperature: float, top_p: float, length: int, seed: int) -> Iterator[str]:
    """The panes' HTML as the answers grow. Raises PlayError, and whatever loading the model or the adapter raises."""
    if not run_id:
        raise PlayError("No run is picked.", "Pick one under 'Adapted by', or train one first.")
    if not prompt.strip():
        raise PlayError("The prompt is empty.", "Type what you would like to ask.")
    active = next((run for run in store.list_runs(studio.home) if run.status.is_active), None)
    if active:
        raise PlayError(f"The run {active.name} is training and needs the memory.", "Wait until it has ended, or stop it.")
    record = store.read_run(studio.home, run_id)
    yield markup.empty("Loading the model…", "The first answer takes a few seconds longer.")
    studio.play.call("load", model=record.spec.model.model_dump(mode="json"), quantization=record.spec.quantization,
                     adapters={"adapted": str(record.paths.adapter)})  # fmt: skip
    instruction = system.strip() or record.spec.data.system_prompt
    messages = [*([{"role": "system", "content": instruction}] if instruction else []), {"role": "user", "content": prompt}]
    sampling = {"temperature": temperature, "top_p": top_p, "max_new_tokens": length, "seed": seed}
    texts, drawn = {"base": "", "adapted": ""}, 0.0
    for event in studio.play.stream("generate", panes=list(texts), messages=messages, sampling=sampling):
        if event.name == "token":
            texts[event.data["pane"]] += event.data["text"]
            if time.monotonic() - drawn > REDRAW_S:
                drawn = time.monotonic()
                yield panes_html(texts)
        elif event.name == "done":
            yield panes_html({pane["pane"]: pane["text"] for pane in event.data["panes"]}, event.data)


def panes_html(texts: dict[str, str], done: dict[str, Any] | None = None) -> str:
    """One column a pane; when `done`, with each pane's figures and how they were computed."""
    ends = {pane["pane"]: pane for pane in (done or {}).get("panes", [])}
    columns = "".join(_pane(name, text, ends.get(name)) for name, text in texts.items())
    how = ""
    if done:
        batch = "in one batch" if done["mixed_batch"] else "one after the other"
        how = f'<p class="how">Answered {batch}, from one model in memory, with the same prompt ({done["prompt_tokens"]:,} tokens) and seed.</p>'
    return f'<div class="panes">{columns}</div>{how}'


def _pane(name: str, text: str, end: dict[str, Any] | None) -> str:
    foot = '<footer class="writing">writing…</footer>'
    if end:
        speed = end["tokens"] / end["seconds"] if end["seconds"] else 0
        foot = (
            f'<footer>{end["tokens"]:,} tokens · {speed:.1f} tokens/s · first after {end["first_token_s"]:.2f} s · '
            f'{show_duration(end["seconds"])} · ended by {markup.escape(end["stopped_by"])}</footer>'
        )
    title = {"base": "Base", "adapted": "Adapted"}.get(name, name)
    return f'<article class="pane {markup.escape(name)}"><h3>{markup.escape(title)}</h3><pre>{markup.escape(text)}</pre>{foot}</article>'
