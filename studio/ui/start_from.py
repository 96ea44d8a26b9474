"""Where the form's content comes from: a preset, a file, another run, or what the browser kept; and what follows when that is changed.

A preset chooses some settings for its own dataset: a limit on rows, sample prompts, the run's name. With another dataset they follow
(`follow`), as far as nobody changed them; back with the preset's own they return.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from studio.core.catalog import load_preset, parse_preset, preset_names
from studio.core.errors import SpecError
from studio.core.spec import RunSpec
from studio.importing import Imported, read_settings
from studio.ui import markup
from studio.ui.form import FAMILY_GROUP, Form
from studio.ui.guard import guarded
from studio.ui.help import all_help
from studio.ui.hidden import hidden_box
from studio.ui.lazy import current_page

CHANGED = " (changed)"
PRESET = "start from"
"""The preset's key beside the settings in what the browser keeps."""
SAMPLES = "training.sample_prompts"
OF_THE_DATASET = (
    "data.config", "data.split", "data.format", "data.columns", "data.system_prompt", "data.max_rows", "data.max_held_out_rows",
    SAMPLES,
)  # fmt: skip


class StartFrom(NamedTuple):
    """The widgets that say where the form's content comes from, and those it fills."""

    form: Form
    groups: dict[str, gr.Group]
    """The fields of each method, one of which is shown."""
    preset: gr.Dropdown
    imported: gr.HTML
    """Which file the form was filled from."""
    followed: gr.HTML
    """What followed a change of model or dataset."""
    prompts_for: gr.Textbox
    """Hidden: the dataset whose own prompts are to be the sample prompts, once it is looked at."""

    @property
    def filled(self) -> list[Any]:
        """The preset first: what a change of the others starts must find the new one there."""
        return [*self[2:], *self.form.widgets, *self.groups.values()]

    def fill(self, data: dict[str, Any], preset: str = "", imported: str = "") -> dict[Any, Any]:
        """Updates that put a spec into the form and show its family's fields. Raises SpecError."""
        spec = RunSpec.parse(data)
        updates = {**self.form.updates(spec), **self.show_group(spec.method.family)}
        return {**updates, self.preset: preset, self.imported: imported, self.followed: "", self.prompts_for: ""}

    def show_group(self, family: str | None) -> dict[Any, Any]:
        return {group: gr.update(visible=name == FAMILY_GROUP.get(family or "")) for name, group in self.groups.items()}


def mark_changed(shown: str, data: dict[str, Any]) -> str:
    """'quickstart (changed)' where the form's `data` are no longer the preset's, 'quickstart' where they are; '' of no preset."""
    name = shown.removesuffix(CHANGED)
    if name not in preset_names():
        return shown
    try:
        same = RunSpec.parse(data) == parse_preset(name)
    except SpecError:
        same = False
    return name if same else name + CHANGED


def follow(data: dict[str, Any], preset: RunSpec) -> dict[str, Any]:
    """Setting -> its new value, for those of the preset that are about a dataset or model which `data` no longer name, or name again.

    Only what still stands as the preset, or this function, put it there.
    """
    given, default = preset.to_json(), RunSpec().to_json()
    other_data = _get(data, "data.source") != preset.data.source
    other_model = _get(data, "model.id") != preset.model.id
    found = {}
    for path in ("name", *OF_THE_DATASET):
        ours, plain = _get(given, path), _get(default, path)
        old, new = (ours, plain) if other_data or (other_model and path == "name") else (plain, ours)
        now = _get(data, path)
        if old != new and (plain if now is None else now) == old:
            found[path] = new
    return found


def followed_html(changes: dict[str, Any], preset: str) -> str:
    """What followed, told by the settings' names; '' where nothing did."""
    if not changes:
        return ""
    default = RunSpec().to_json()
    names = ", ".join(all_help()[path].label for path in changes)
    if any(value != _get(default, path) for path, value in changes.items()):
        return markup.notice(f"{preset}'s own again: {names}.", title="Back to the preset's dataset and model.")
    prompts = " When the data are looked at, held-out prompts of their own become the sample prompts." if SAMPLES in changes else ""
    title = f"What {preset} had chosen for its own dataset and model no longer applies."
    return markup.notice(f"Back at their defaults: {names}.{prompts}", title=title)


def _get(data: dict[str, Any], path: str) -> Any:
    part, _, name = path.partition(".")
    return data.get(part) if not name else data[part].get(name)


def wire(start: StartFrom, load: gr.UploadButton, kept: gr.BrowserState) -> None:
    """A preset or an uploaded file fills the form, and after a reload it stands as it was left, also where it is not valid yet."""

    def fill_from_preset(name: str) -> Any:
        return gr.skip() if not name or name.endswith(CHANGED) else start.fill(load_preset(name), name)

    def fill_from_file(path: str) -> dict[Any, Any]:
        found = read_settings(Path(path))
        return start.fill(found.data, imported=imported_html(found, Path(path).name))

    def restore(typed: dict[str, Any] | None) -> dict[Any, Any]:
        if not typed:
            return {start.preset: gr.skip()}
        return {start.preset: typed.get(PRESET, ""), **start.form.retyped(typed), **start.show_group(typed.get("method.family"))}

    quiet = {"outputs": start.filled, "show_progress": "hidden"}
    start.preset.input(guarded(fill_from_preset), start.preset, **quiet)
    load.upload(guarded(fill_from_file), load, **quiet)
    # In two steps: gradio's client works through every output of an event that a page waits for, and a first visit has nothing to put back.
    found = hidden_box("the browser kept a form")
    current_page().load(lambda typed: "yes" if typed else "", kept, found, show_progress="hidden")
    found.change(guarded(restore), kept, **quiet)


def make_followers(start: StartFrom) -> tuple[Any, dict[str, Any]]:
    """The handler, and the event's other arguments, that let the rest follow after a person chose another model or dataset."""

    def follow_choice(values: dict[Any, Any]) -> dict[Any, Any]:
        preset, data = values[start.preset].removesuffix(CHANGED), start.form.spec_data(values)
        if preset not in preset_names():
            return {start.followed: ""}
        changes = follow(data, parse_preset(preset))
        updates = {start.form.fields[path].widget: start.form.fields[path].show(value) for path, value in changes.items()}
        wanted = data["data"].get("source", "") if changes.get(SAMPLES) == [] else ""
        return {**updates, start.followed: followed_html(changes, preset), start.prompts_for: wanted}

    outputs = [*(start.form.fields[path].widget for path in ("name", *OF_THE_DATASET)), start.followed, start.prompts_for]
    return guarded(follow_choice), {"inputs": {*start.form.widgets, start.preset}, "outputs": outputs, "show_progress": "hidden"}


def imported_html(found: Imported, name: str) -> str:
    """Where the form's content comes from, and every setting that could not be carried over."""
    title = f"Filled from {name}, {'a spec' if found.tool == 'PEFT Studio' else 'a configuration'} of {found.tool}."
    if not found.left_out:
        return markup.notice("All of it was carried over.", "good", title)
    return markup.notice("\n".join(["Not carried over:", *(f"– {text}" for text in found.left_out)]), "warn", title)
