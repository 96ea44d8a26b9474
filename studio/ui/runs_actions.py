"""The buttons above a run: which of them make sense for it, and what they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from studio.core.records import RunStatus
from studio.core.spec import RunSpec
from studio.jobs import families, notes, runner, store
from studio.jobs.queue import move_in_queue, waiting_runs
from studio.jobs.store import RunRecord
from studio.ui import markup
from studio.ui.guard import guarded
from studio.ui.runs_widgets import QUIET, Buttons, Confirm, Trash
from studio.ui.studio import Studio
from studio.ui.train import check_all


def button_updates(record: RunRecord, place: tuple[int, int] | None) -> list[Any]:
    """Visibility of every button, in the order of Buttons; the confirmation closes."""
    status, over = record.status, record.status.is_over
    usable = (record.paths.adapter / "adapter_config.json").is_file()
    visible = {
        "stop": status is RunStatus.RUNNING, "cancel": not over, "earlier": bool(place and place[0] > 1),
        "later": bool(place and place[0] < place[1]), "play": usable and over, "again": True, "methods": over, "delete": over,
    }  # fmt: skip
    # The confirmation is opened and closed by its own buttons: a tick must not close it.
    return [
        *[gr.update(visible=visible[name]) for name in Buttons._fields if name != "confirm"],
        gr.skip() if over else gr.update(visible=False),
    ]


def wire(studio: Studio, buttons: Buttons, confirm: Confirm, selected: gr.Textbox, compared: gr.Textbox) -> list[Any]:
    """The buttons' events, for the cockpit to be drawn anew after each."""

    def act(action: Callable[[str], Any], text: str) -> Callable[[str], None]:
        def handler(run_id: str) -> None:
            action(run_id)
            gr.Info(text, duration=4)

        return guarded(handler)

    def move(by: int) -> Callable[[str], None]:
        return guarded(lambda run_id: move_run(studio, run_id, by))

    def delete(run_id: str) -> tuple[str, Any]:
        notes.delete_run(studio.home, run_id)
        gr.Info("Moved to the trash, below the list: it can be taken back there.", duration=6)
        return "", gr.update(visible=False)

    home = studio.home
    stop = act(lambda run_id: runner.stop_run(home, run_id), "The run saves its adapter after this step, then ends.")
    cancel = act(lambda run_id: runner.cancel_run(home, run_id), "Cancelled. Nothing was kept but the settings, the curve and the log.")
    buttons.delete.click(lambda: gr.update(visible=True), None, buttons.confirm, show_progress="hidden", queue=False)
    confirm.no.click(lambda: gr.update(visible=False), None, buttons.confirm, show_progress="hidden", queue=False)
    return [
        buttons.stop.click(stop, selected, None, **QUIET),
        buttons.cancel.click(cancel, selected, None, **QUIET),
        buttons.earlier.click(move(-1), selected, None, **QUIET),
        buttons.later.click(move(1), selected, None, **QUIET),
        buttons.methods.click(guarded(lambda run_id: compare_methods(studio, run_id)), selected, compared, **QUIET),
        confirm.yes.click(guarded(delete), selected, [selected, buttons.confirm], **QUIET),
    ]


def move_run(studio: Studio, run_id: str, by: int) -> None:
    """Let a waiting run start `by` places later; a negative number is earlier."""
    order = [paths.id for paths in waiting_runs(studio.home)]
    place = order.index(run_id) if run_id in order else 0
    move_in_queue(studio.home, run_id, place + by)


def compare_methods(studio: Studio, run_id: str) -> str:
    """Queue the four families on a run's data, seed and budget; their ids, to be compared from the start."""
    studio.refuse_while_calibrating()
    spec = store.read_run(studio.home, run_id).spec

    def plan(variant: RunSpec) -> dict[str, Any] | None:
        return check_all(studio, variant.to_json())[1]

    studio.play.close()
    ids = families.start_family_runs(studio.home, spec, plan)
    gr.Info("Four runs wait in the queue. Their curves and the table fill as they train.", duration=6)
    return ",".join(ids)


def wire_trash(studio: Studio, trash: Trash, selected: gr.Textbox) -> list[Any]:
    """The list of deleted runs is read when the box is opened."""
    home = studio.home
    closed = gr.update(visible=False)

    def look() -> tuple[Any, Any]:
        names = notes.list_trash(home)
        return gr.update(choices=names, value=names[0] if names else None), closed

    def restore(run_id: str | None) -> tuple[Any, ...]:
        if not run_id:
            raise gr.Error("There is no deleted run to take back.", print_exception=False)
        notes.restore_run(home, run_id)
        gr.Info("The run is back.", duration=4)
        return run_id, *look()

    def ask() -> tuple[Any, Any]:
        size = notes.measure_trash(home)
        if not size.runs:
            raise gr.Error("The trash is empty.", print_exception=False)
        return gr.update(visible=True), markup.notice(f"{size.sentence} Nothing brings them back.", "warn", "Delete for good?")

    def empty() -> tuple[Any, Any]:
        emptied = notes.empty_trash(home)
        gr.Info(f"Deleted for good: {emptied.sentence}", duration=4)
        return look()

    shown = [trash.runs, trash.confirm]
    trash.box.expand(guarded(look), None, shown, **QUIET)
    trash.empty.click(guarded(ask), None, [trash.confirm, trash.told], **QUIET)
    trash.no.click(lambda: closed, None, trash.confirm, show_progress="hidden", queue=False)
    trash.yes.click(guarded(empty), None, shown, **QUIET)
    return [trash.restore.click(guarded(restore), trash.runs, [selected, *shown], **QUIET)]
