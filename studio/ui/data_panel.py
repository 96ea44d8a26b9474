"""The dataset under the eye: first rows, counts, lengths, and one example as the model will see it.

The data worker reads it (it needs the tokenizer); this file only lays out its answer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr

from studio.core.spec import DataSpec, ModelSpec, TrainingSpec
from studio.ui import markup
from studio.ui.form import Form
from studio.ui.guard import guarded
from studio.ui.studio import Studio


class DataPanel(NamedTuple):
    source: gr.Dropdown
    upload: gr.UploadButton
    look: gr.Button
    view: gr.HTML


def build(source: gr.Dropdown, upload: gr.UploadButton) -> DataPanel:
    look = gr.Button("Look at the data", size="sm", elem_id="look-button")
    view = gr.HTML("", elem_id="data-preview", padding=False)
    return DataPanel(source, upload, look, view)


def wire(studio: Studio, form: Form, panel: DataPanel) -> None:
    def look(values: dict[Any, Any]) -> str:
        data = form.spec_data(values)
        parts = {
            "data": DataSpec.model_validate(data["data"]).model_dump(mode="json"),
            "model": ModelSpec.model_validate(data["model"]).model_dump(mode="json"),
            "training": TrainingSpec.model_validate(data["training"]).model_dump(mode="json"),
        }
        return preview_html(studio.data.call("preview", **parts))

    def upload(path: str) -> dict[str, Any]:
        saved = str(studio.save_upload(path))
        return gr.update(choices=studio.dataset_choices(), value=saved)

    panel.look.click(guarded(look), form.widgets, panel.view, concurrency_limit=2, concurrency_id="data")
    panel.upload.upload(guarded(upload), panel.upload, panel.source).then(
        guarded(look), form.widgets, panel.view, concurrency_limit=2, concurrency_id="data"
    )
    panel.source.input(lambda: "", None, panel.view, queue=False, show_progress="hidden")


def preview_html(preview: dict[str, Any]) -> str:
    return repr(preview)
