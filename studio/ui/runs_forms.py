"""What can be done to one run besides watching it: go on from a checkpoint, rename, tag and comment, export, throw away and take back.

Forms are filled when another run is picked, never by the timer, so nothing that is being typed is reset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from studio.core.errors import RunError, RunNotFound
from studio.core.records import RunNotes
from studio.core.units import show_bytes
from studio.data.unchanged import require_same_data
from studio.jobs import notes, runner, store
from studio.jobs.store import RunRecord
from studio.jobs.worker import Worker
from studio.ui import markup
from studio.ui.guard import guarded
from studio.ui.studio import Studio

LAST = "the last one"
SHOWN_FILE_BYTES = 500_000_000
EXPORTS = [
    ("Adapter (zip)", "adapter"), ("Merged model", "merged"), ("GGUF, for llama.cpp", "gguf"), ("Model card", "card"),
    ("Script that repeats the run", "script"), ("Push to a hub", "push"),
]  # fmt: skip


class Forms(NamedTuple):
    """The folded-away forms below a run's curves."""

    resume: gr.Accordion
    checkpoint: gr.Dropdown
    total_steps: gr.Number
    go_on: gr.Button
    notes: gr.Accordion
    name: gr.Textbox
    tags: gr.Textbox
    text: gr.Textbox
    save: gr.Button
    export: gr.Accordion
    kind: gr.Radio
    repository: gr.Textbox
    token: gr.Textbox
    start_export: gr.Button
    exported: gr.HTML
    file: gr.File


def build() -> Forms:
    with gr.Accordion("Go on from a checkpoint, or extend", open=False, visible=False, elem_id="resume-form") as resume, gr.Row():
        checkpoint = gr.Dropdown([LAST], value=LAST, label="Checkpoint", info="Later ones are kept.")
        total = gr.Number(None, label="Total steps", precision=0, minimum=1, info="Empty: as many as the run was to have.")
        go_on = gr.Button("Go on", variant="primary", elem_id="go-on-button")
    with gr.Accordion("Name, tags and notes", open=False, visible=False, elem_id="notes-form") as notes_form:
        with gr.Row():
            name = gr.Textbox("", label="Name", max_lines=1)
            tags = gr.Textbox("", label="Tags", max_lines=1, placeholder="baseline, r 8", info="With commas between.")
        text = gr.Textbox("", label="Notes", lines=3, placeholder="What was tried, what it showed.")
        save = gr.Button("Save", size="sm", elem_id="save-notes-button")
    with gr.Accordion("Export", open=False, visible=False, elem_id="export-form") as export:
        kind = gr.Radio(EXPORTS, value="adapter", label="What")
        with gr.Row():
            repository = gr.Textbox("", label="Repository", placeholder="owner/name", max_lines=1, visible=False)
            token = gr.Textbox("", label="Token", type="password", max_lines=1, visible=False, info="Empty takes $HF_TOKEN. Never stored.")
        start = gr.Button("Export", size="sm", variant="primary", elem_id="export-button")
        exported = gr.HTML("", padding=False)
        file = gr.File(visible=False, label="Download")
    kind.change(lambda value: [gr.update(visible=value == "push")] * 2, kind, [repository, token], show_progress="hidden", queue=False)
    return Forms(
        resume, checkpoint, total, go_on, notes_form, name, tags, text, save, export, kind, repository, token, start, exported, file
    )


def filled(forms: Forms) -> list[Any]:
    """The widgets `fill` gives values for, in its order."""
    return [forms.resume, forms.checkpoint, forms.total_steps, forms.notes, forms.name, forms.tags, forms.text, forms.export,
            forms.exported, forms.file]  # fmt: skip


def fill(studio: Studio, run_id: str) -> list[Any]:
    """The forms for a run just picked."""
    try:
        record = store.read_run(studio.home, run_id) if run_id else None
    except (RunNotFound, RunError):
        record = None
    if record is None:
        hidden = gr.update(visible=False)
        return [hidden, gr.skip(), None, hidden, "", "", "", hidden, "", hidden]
    resume, checkpoint, export_form = offered(record)
    return [
        resume, {**checkpoint, "value": LAST}, None, gr.update(visible=True), record.name if record.name != record.id else "",
        ", ".join(record.notes.tags), record.notes.text, export_form, "", gr.update(visible=False),
    ]  # fmt: skip


def offered(record: RunRecord) -> list[Any]:
    """What can be done with a run now: updates of the form to go on, of its checkpoints, of the export. They change as a run ends."""
    checkpoints = [path.name for path in reversed(runner.list_checkpoints(record.paths))]
    usable = (record.paths.adapter / "adapter_config.json").is_file()
    return [
        gr.update(visible=bool(checkpoints) and record.status.is_over), gr.update(choices=[LAST, *checkpoints]), gr.update(visible=usable)
    ]  # fmt: skip


def go_on(studio: Studio, run_id: str, checkpoint: str, total: float | None) -> None:
    """Resume a run, with a larger total where one is given. Raises RunError, DataError."""
    studio.refuse_while_calibrating()
    chosen = None if checkpoint == LAST else checkpoint
    status = store.read_status(studio.home.run(run_id))
    if not status.is_over:
        raise RunError(f"This run is {status.value}: only a run that is over can go on.")
    paths = studio.home.run(run_id)
    require_same_data(studio.home, store.read_spec_of(paths).data, paths)
    studio.play.close()
    if total:
        changes = {"training": {"max_steps": int(total)}}
        if int(total) <= _step_of(chosen, studio, run_id):
            raise RunError("The total is not beyond the checkpoint.", "Name a larger total of steps.")
        runner.resume_run(studio.home, run_id, chosen, changes=changes)
    else:
        runner.resume_run(studio.home, run_id, chosen)


def _step_of(checkpoint: str | None, studio: Studio, run_id: str) -> int:
    found = [checkpoint] if checkpoint else [path.name for path in runner.list_checkpoints(studio.home.run(run_id))[-1:]]
    return int(found[0].removeprefix("step-")) if found else 0


def save_notes(studio: Studio, run_id: str, name: str, tags: str, text: str) -> None:
    notes.write_notes(studio.home, run_id, RunNotes(name, tags.split(","), text))


def export(studio: Studio, run_id: str, kind: str, repository: str, token: str) -> Iterator[tuple[Any, Any]]:
    """Html of how it goes, and the file to download where it is one file of a sensible size."""
    yield markup.notice("Working. A merged model needs the whole base in memory.", "info"), gr.update(visible=False)
    worker = Worker("studio.export", studio.home.root / "logs" / "export.log", arguments=["--home", str(studio.home.root)])
    try:
        if kind == "push":
            done = worker.call("push", run=run_id, repository=repository.strip(), kind="adapter", token=token)
            yield markup.notice(done["url"], "good", "Pushed."), gr.update(visible=False)
            return
        done = worker.call("export", run=run_id, kind=kind)
    finally:
        worker.close()
    path = Path(done["path"])
    shown = path.is_file() and done["bytes"] <= SHOWN_FILE_BYTES
    text = markup.notice(f"{path} ({show_bytes(done['bytes'])})", "good", "Exported.")
    yield text, gr.update(value=str(path) if shown else None, visible=shown)


def wire(studio: Studio, forms: Forms, selected: gr.Textbox) -> list[Any]:
    """Events after which the run is to be drawn anew."""
    quiet = {"show_progress": "hidden"}

    def told(action: Callable[..., None], text: str) -> Callable[..., None]:
        def handler(*values: Any) -> None:
            action(studio, *values)
            gr.Info(text, duration=4)

        return guarded(handler)

    def run_export(run_id: str, kind: str, repository: str, token: str) -> Iterator[tuple[Any, Any]]:
        yield from export(studio, run_id, kind, repository, token)

    gone_on = forms.go_on.click(
        told(go_on, "The run goes on as soon as the device is free."), [selected, forms.checkpoint, forms.total_steps], None, **quiet
    )
    saved = forms.save.click(told(save_notes, "Saved."), [selected, forms.name, forms.tags, forms.text], None, **quiet)
    forms.start_export.click(
        guarded(run_export), [selected, forms.kind, forms.repository, forms.token], [forms.exported, forms.file], show_progress="minimal",
        concurrency_limit=1,
    ).then(lambda: "", None, forms.token, **quiet)  # fmt: skip
    return [gone_on, saved]
