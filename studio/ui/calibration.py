"""One line under QLoRA: round the chosen base with calibration, and train on that.

The calibration worker does it, on the dataset chosen in the form; it lives as long as the click. At the end the new folder is chosen
as the base model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import gradio as gr

from studio.core.errors import RunError, StudioError
from studio.jobs import store
from studio.jobs.worker import Worker
from studio.ui import markup
from studio.ui.form import Form
from studio.ui.guard import guarded
from studio.ui.hidden import hidden_box
from studio.ui.studio import Studio

OFFER = (
    '<p class="how">4 bits cost a small model some of its answers. Rounded with calibration on your data it keeps more of them: a new base '
    "model, made once, in minutes.</p>"
)
HELD_AS = {"unquantized": "Not quantized", "nf4": "NF4", "calibrated": "NF4, calibrated"}


class CalibrationLine(NamedTuple):
    line: gr.Column
    """Shown with QLoRA alone."""
    told: gr.HTML
    go: gr.Button
    made: gr.Textbox
    """Hidden: what was calibrated and the folder it became, as JSON."""


def build(family: gr.Radio) -> CalibrationLine:
    with gr.Column(visible=False) as line:
        told = gr.HTML(OFFER, padding=False, elem_id="calibration")
        with gr.Row(elem_classes="actions"):
            go = gr.Button("Round with calibration", size="sm", elem_id="calibrate-button")
        made = hidden_box("the calibrated model")
    family.change(lambda value: gr.update(visible=value == "qlora"), family, line, show_progress="hidden", queue=False)
    return CalibrationLine(line, told, go, made)


def wire(studio: Studio, form: Form, line: CalibrationLine) -> None:
    model = form.fields["model.id"].widget

    def calibrate(values: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
        for told, path in calibrated(studio, form.spec_data(values)):
            yield {line.told: told, line.made: json.dumps([values[model], path]) if path else ""}

    def choose(made: str, chosen: str) -> dict[str, Any]:
        """The new folder, unless another model was chosen while it was made."""
        source, path = json.loads(made)
        return gr.update(choices=studio.model_choices(), **({"value": path} if chosen == source else {}))

    done = line.go.click(guarded(calibrate), form.widgets, [line.told, line.made], show_progress="hidden", concurrency_limit=None)
    done.success(guarded(choose), [line.made, model], model, show_progress="hidden")


def calibrated(studio: Studio, data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What to show, and at the end the folder, else "". Errors: RunError while a run needs the memory; the worker's own."""
    studio.refuse_while_calibrating()
    if any(run.status.is_active for run in store.list_runs(studio.home)):
        raise RunError("A run is training and needs the memory.", "Wait until it has ended, or stop it.")
    worker = Worker("studio.calibration", studio.home.root / "logs" / "calibration.log", arguments=["--home", str(studio.home.root)])
    studio.calibrating = True
    try:
        studio.play.close()
        yield markup.waiting("Starting"), ""
        for event in worker.stream("calibrate", model=data.get("model"), data=data.get("data")):
            if event.name == "done":
                yield done_html(event.data), event.data["path"]
            else:
                share, phrase = event.data
                yield f'{markup.progress_bar(share, phrase)}<p class="how">{markup.escape(phrase)}</p>', ""
    except StudioError:
        yield OFFER, ""  # no bar that stands still for ever; the toast says why
        raise
    finally:
        worker.close()
        studio.calibrating = False


def done_html(done: dict[str, Any]) -> str:
    """The three losses, measured on rows that calibration has not seen."""
    losses, rows = done["held_out"]["loss"], done["held_out"]["rows"]
    base = losses["unquantized"]
    cells = [
        markup.stat(label, f"{losses[name]:.4f}", f"{100 * (losses[name] / base - 1):+.1f} %" if name != "unquantized" else "")
        for name, label in HELD_AS.items()
    ]
    told = f"Held-out loss of the base before training, on {rows} rows. The calibrated model is in the list of base models now."
    return f'{markup.stats(cells)}<p class="how">{told}</p>'
