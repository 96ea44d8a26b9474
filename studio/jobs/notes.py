"""What a person does to the history of runs: name, tag and comment them, throw them away and take them back."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from studio.core.errors import RunError, RunNotFound, from_os_error
from studio.core.files import folder_bytes, write_json
from studio.core.paths import RUN_ID, StudioHome
from studio.core.records import RunNotes
from studio.core.units import show_bytes
from studio.jobs.store import read_status

NAME_LENGTH = 100
TEXT_LENGTH = 20_000


def write_notes(home: StudioHome, run_id: str, notes: RunNotes) -> RunNotes:
    """Replace a run's name, tags and text; blanks trimmed, tags once each. What was kept. Raises RunNotFound or RunError."""
    paths = home.run(run_id)
    if len(notes.name) > NAME_LENGTH:
        raise RunError(f"A run's name has at most {NAME_LENGTH} characters, this has {len(notes.name)}.", "Put the rest into the notes.")
    if len(notes.text) > TEXT_LENGTH:
        raise RunError(f"A run's notes have at most {TEXT_LENGTH:,} characters.")
    tags = list(dict.fromkeys(tag.strip() for tag in notes.tags if tag.strip()))
    kept = RunNotes(notes.name.strip(), tags, notes.text.strip())
    write_json(paths.notes, asdict(kept))
    return kept


def delete_run(home: StudioHome, run_id: str) -> None:
    """Move a run to the trash, from where restore_run takes it back. Raises RunError while it waits or works."""
    paths = home.run(run_id)
    status = read_status(paths)
    if not status.is_over:
        raise RunError(f"Run {run_id} is {status.value}, so it cannot be deleted.", "Stop or cancel it first.")
    _move(paths.folder, home.trash / run_id)


def restore_run(home: StudioHome, run_id: str) -> None:
    """Take a run back from the trash. Raises RunNotFound, or RunError where a run of that id is there again."""
    if run_id not in list_trash(home):
        raise RunNotFound(f"There is no run {run_id!r} in the trash.")
    _move(home.trash / run_id, home.runs / run_id)


def list_trash(home: StudioHome) -> list[str]:
    """The ids of deleted runs, newest first."""
    if not home.trash.is_dir():
        return []
    return sorted((path.name for path in home.trash.iterdir() if RUN_ID.fullmatch(path.name) and path.is_dir()), reverse=True)


class TrashSize(NamedTuple):
    """How much lies, or lay, in the trash."""

    runs: int
    bytes: int

    @property
    def sentence(self) -> str:
        return f"{self.runs:,} run{'' if self.runs == 1 else 's'}, {show_bytes(self.bytes)}."


def measure_trash(home: StudioHome) -> TrashSize:
    names = list_trash(home)
    return TrashSize(len(names), sum(folder_bytes(home.trash / name) for name in names))


def empty_trash(home: StudioHome) -> TrashSize:
    """Delete what is in the trash for good; how much that was. Raises SetupError for what cannot be deleted."""
    runs = size = 0
    for name in list_trash(home):
        folder = home.trash / name
        found = folder_bytes(folder)
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:  # another studio was faster
            continue
        except OSError as error:
            raise from_os_error(error, f"deleting {name}") from error
        runs, size = runs + 1, size + found
    return TrashSize(runs, size)


def _move(source: Path, target: Path) -> None:
    if target.exists():
        raise RunError(f"{target} is there already, and nothing is overwritten.", "Rename or remove that folder first.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    except OSError as error:
        raise from_os_error(error, "moving the run") from error
