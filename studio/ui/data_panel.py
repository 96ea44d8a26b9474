"""The dataset under the eye: first rows, counts, lengths, and one example as the model will see it.

The data worker reads it (it needs the tokenizer); this file only lays out its answer.
"""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

import gradio as gr

from studio.core.errors import BrokenRows, StudioError, from_json
from studio.data.counts import KEPT, LEFT_OUT
from studio.ui import markup
from studio.ui.guard import guarded
from studio.ui.hidden import hidden_box
from studio.ui.start_from import SAMPLES, StartFrom, make_followers
from studio.ui.studio import Studio

HIDDEN = gr.update(visible=False)


class DataPanel(NamedTuple):
    source: gr.Dropdown
    upload: gr.UploadButton
    look: gr.Button
    leave_out: gr.Button
    """Shown where some rows are broken and the rest could be used."""
    followed: gr.HTML
    """Which of the preset's settings followed a change of dataset."""
    view: gr.HTML
    found: gr.Textbox
    """Hidden: of which dataset the preview is, and its own prompts, as JSON."""


def build(source: gr.Dropdown) -> DataPanel:
    with gr.Row(elem_classes="actions"):
        look = gr.Button("Look at the data", size="sm", elem_id="look-button")
        upload = gr.UploadButton("Upload a file", size="sm", file_types=[".jsonl", ".json", ".csv", ".parquet"])
        leave_out = gr.Button("Leave the broken rows out", size="sm", elem_id="leave-out-button", visible=False)
    followed = gr.HTML("", elem_id="followed", padding=False)
    view = gr.HTML("", elem_id="data-preview", padding=False)
    found = hidden_box("the dataset looked at", "looked-at")
    return DataPanel(source, upload, look, leave_out, followed, view, found)


def wire(studio: Studio, origin: StartFrom, panel: DataPanel) -> None:
    form = origin.form
    prompts = form.fields[SAMPLES]
    broken_rows = form.fields["data.broken_rows"].widget

    def look(values: dict[Any, Any], leave_out: bool = False) -> dict[Any, Any]:
        data = form.spec_data(values)
        try:
            found = studio.data.call("preview", data=data["data"], model=data["model"], training=data["training"])
        except StudioError as error:  # in place of an older preview, which is of other data
            told = markup.notice(f"{error.message}\n{error.hint}".strip(), "bad", "The dataset could not be read.")
            return {panel.view: told, panel.leave_out: HIDDEN, panel.found: looked_at(data, [], leave_out)}
        kept = looked_at(data, found["held_out_prompts"], leave_out)
        return {panel.view: preview_html(found), panel.leave_out: offer(found["problem"]), panel.found: kept}

    def settle(values: dict[Any, Any]) -> dict[Any, Any]:
        """A look takes minutes where the data come from afar; this is asked of the form as it stands at its end."""
        data, found = form.spec_data(values), json.loads(values[panel.found] or "null")
        if not found:
            return {panel.view: gr.skip()}
        if found["source"] != data["data"].get("source"):
            return {panel.view: "", panel.leave_out: HIDDEN, panel.found: ""}
        taken = take_prompts(values[origin.prompts_for], data, found["prompts"])
        updates = {prompts.widget: prompts.show(taken), origin.prompts_for: ""} if taken else {}
        return {broken_rows: "leave_out" if found["leave_out"] else gr.skip(), **updates}

    def leave_out(values: dict[Any, Any]) -> dict[Any, Any]:
        return look({**values, broken_rows: "leave_out"}, leave_out=True)

    def upload(path: str) -> tuple[dict[str, Any], str, str]:
        saved = str(studio.save_upload(path))
        return gr.update(choices=studio.dataset_choices(), value=saved), "", "refuse"

    shown = [panel.view, panel.leave_out, panel.found]
    together = {"concurrency_limit": 2, "concurrency_id": "data", "show_progress_on": panel.view}
    settled = {"inputs": {*form.widgets, origin.prompts_for, panel.found}, "show_progress": "hidden",
               "outputs": [*shown, broken_rows, prompts.widget, origin.prompts_for]}  # fmt: skip
    follow, follows = make_followers(origin)
    uploaded = panel.upload.upload(guarded(upload), panel.upload, [panel.source, panel.found, broken_rows]).then(follow, **follows)
    panel.look.click(guarded(look), form.widgets, shown, **together)
    panel.leave_out.click(guarded(leave_out), form.widgets, shown, **together)
    uploaded.then(guarded(look), form.widgets, shown, **together)
    gr.on([panel.found.change, panel.source.change], guarded(settle), **settled)
    # Other data may be refused for other reasons than these: what was broken there is not left out here unasked.
    panel.source.input(lambda: ("", HIDDEN, "", "refuse"), None, [*shown, broken_rows], queue=False, show_progress="hidden")
    gr.on([panel.source.input, form.fields["model.id"].widget.input], follow, **follows)


def looked_at(data: dict[str, Any], prompts: list[str], leave_out: bool) -> str:
    """What a look leaves for `settle`: of which dataset it was, its prompts, and whether its broken rows are to be left out. The time makes
    it another look even where all else is as before."""
    return json.dumps({"source": data["data"].get("source"), "prompts": prompts, "leave_out": leave_out, "at": time.time()})


def take_prompts(wanted_for: str, data: dict[str, Any], own: list[str]) -> list[str]:
    """The sample prompts to put into the form: the dataset's own, where they are wanted for it and none were written meanwhile."""
    wanted = wanted_for and wanted_for == data["data"].get("source") and not data["training"].get("sample_prompts")
    return own if wanted else []


def offer(problem: dict[str, Any] | None) -> dict[str, Any]:
    """The button's update: shown, with how many rows it leaves out, where that is what is wrong with the data."""
    error = from_json(problem) if problem else None
    if not isinstance(error, BrokenRows):
        return HIDDEN
    return gr.update(visible=True, value=f"Leave {'this row' if error.count == 1 else f'these {error.count:,} rows'} out")


def preview_html(data: dict[str, Any]) -> str:
    """The worker's DataPreview, laid out: what was found, what is wrong, first rows, lengths, one sample."""
    problem = data.get("problem")
    parts = (
        [markup.notice(f"{problem['message']}\n{problem['hint']}".strip(), "bad", "The dataset cannot be used like this.")]
        if problem
        else []
    )
    parts.append(_found(data))
    parts += [part for part in (_lengths(data), _sample(data), _rows(data)) if part]
    return f'<div class="data-preview">{"".join(parts)}</div>'


def _found(data: dict[str, Any]) -> str:
    counts = data.get("counts") or {}
    cells = [
        markup.stat(
            "format",
            (data.get("format") or "unknown").replace("_", " "),
            ", ".join(f"{k} = {v}" for k, v in (data.get("columns") or {}).items()),
        )
    ]
    for key, label in {**KEPT, **LEFT_OUT}.items():
        if key in counts:
            cells.append(markup.stat(label, f"{counts[key]:,}", "", "warn" if key in LEFT_OUT and counts[key] else ""))
    return markup.stats(cells)


def _lengths(data: dict[str, Any]) -> str:
    lengths = data.get("lengths")
    if not lengths:
        return ""
    tallest = max(lengths["counts"]) or 1
    bars = "".join(
        f'<i style="height:{max(2, 100 * count / tallest):.0f}%" title="{low}–{high - 1} tokens: {count:,} examples"></i>'
        for count, low, high in zip(lengths["counts"], lengths["edges"], lengths["edges"][1:], strict=False)
    )
    caption = f"Length in tokens: {lengths['mean']:.0f} on average, {lengths['median']:,} median, {lengths['longest']:,} at most."
    told = markup.escape(caption)
    return f'<figure class="histogram" role="img" aria-label="{told}"><div>{bars}</div><figcaption>{told}</figcaption></figure>'


def _sample(data: dict[str, Any]) -> str:
    tokens = data.get("sample") or []
    if not tokens:
        return ""
    shown = "".join(f'<span class="{"trained" if trained else "context"}">{markup.escape(text)}</span>' for text, trained in tokens)
    legend = '<p class="legend"><span class="trained">learned from</span> <span class="context">only read</span></p>'
    place = markup.escape(str(data.get("sample_place") or ""))
    prompt = markup.escape(data.get("prompt") or "")
    asked = f"<details><summary>The same prompt, as the playground sends it</summary><pre>{prompt}</pre></details>" if prompt else ""
    return f'<h4>One example as the model sees it <small>{place}</small></h4>{legend}<pre class="tokens">{shown}</pre>{asked}'


def _rows(data: dict[str, Any]) -> str:
    rows, columns = data.get("rows") or [], data.get("all_columns") or []
    if not rows:
        return ""
    body = markup.table(columns, ([_cell(row.get(column)) for column in columns] for row in rows), "rows")
    return f"<details open><summary>The first rows</summary>{body}</details>"


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 240 else text[:240] + "…"
