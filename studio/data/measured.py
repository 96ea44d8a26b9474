"""What the last preview found of a dataset, kept for the plan: how many rows of what length, or why it cannot be used.

Kept in the home's cache by dataset, model and the times of the files, so a file that was edited is assumed anew. Of a folder only the
files directly inside are looked at: a plan is made at every keystroke. How many rows a run takes and holds out is not part of what was
looked at: rows are drawn by their content's hash, so fewer or more of them are of the same lengths.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio.core.errors import DataError, from_json
from studio.core.files import read_json, write_json
from studio.core.paths import StudioHome
from studio.core.spec import RunSpec
from studio.models.sizes import DataSize

TAKEN = {"max_rows", "max_held_out_rows", "held_out"}


def remember(home: StudioHome, spec: RunSpec, preview: dict[str, Any]) -> None:
    """Keep a DataPreview's JSON, as far as a plan needs it. What was not the data's fault, such as a missing tokenizer, is not kept."""
    size, problem = preview.get("size"), preview.get("problem")
    if problem and not isinstance(from_json(problem), DataError):
        return
    longest = (preview.get("lengths") or {}).get("longest", 0)
    asked = spec.training.model_dump(include={"max_length", "too_long", "loss_on"})
    asked["taken"] = spec.data.model_dump(include=TAKEN)
    write_json(_file(home, spec), {"size": size, "problem": problem, "longest": longest, "usable": _usable(preview), **asked})


def measured_size(home: StudioHome, spec: RunSpec) -> DataSize | None:
    """The size of the run's data as the last preview measured it, or None. At another maximum length it says at which it was measured."""
    found, training = read_json(_file(home, spec)), spec.training
    if not found or not found["size"] or (found["loss_on"], training.loss_on) == ("all", "answer"):
        return None
    size = _taken_anew(found, spec)
    if training.loss_on == "all":
        size = replace(size, labelled_share=1.0)
    if _same_rows(found, spec) or found["longest"] <= min(training.max_length, found["max_length"]):
        return size
    return replace(
        size,
        mean_tokens=min(size.mean_tokens, training.max_length),
        longest_tokens=min(found["longest"], training.max_length),
        source=f"{size.source} at a length of at most {found['max_length']:,} tokens: look at the data again",
    )


def measured_problem(home: StudioHome, spec: RunSpec) -> str:
    """Why the data could not be used when last looked at, with the advice; '' where nothing is known against them."""
    found = read_json(_file(home, spec))
    if not found or not found["problem"] or not _same_rows(found, spec) or found["taken"] != spec.data.model_dump(include=TAKEN):
        return ""
    return f"{found['problem']['message']}\n{found['problem']['hint']}".strip()


def _usable(preview: dict[str, Any]) -> int:
    """Rows of the dataset that are neither empty, nor broken, nor there twice."""
    counts = preview.get("counts") or {}
    return counts["rows"] - counts["empty"] - counts["duplicate"] - counts["broken"] if counts else 0


def _taken_anew(found: dict[str, Any], spec: RunSpec) -> DataSize:
    """What was measured, with the rows that this run takes and holds out; about, where the dataset marks which it holds out."""
    size, taken = DataSize(**found["size"]), spec.data.model_dump(include=TAKEN)
    if taken == found["taken"]:
        return size
    before, now = (_share_out(found["usable"], each) for each in (found["taken"], taken))
    return replace(
        size,
        rows=round(size.rows * now[0] / before[0]),
        held_out_rows=max(1, round(size.held_out_rows * now[1] / before[1])),
        source=f"{size.source}, the number of rows worked out",
    )


def _share_out(usable: int, taken: dict[str, Any]) -> tuple[int, int]:
    """Rows to train on and to hold out, before any are too long."""
    held_out = min(taken["max_held_out_rows"], max(1, round(taken["held_out"] * usable)))
    rows = max(1, usable - held_out)
    return min(rows, taken["max_rows"] or rows), held_out


def _same_rows(found: dict[str, Any], spec: RunSpec) -> bool:
    """Rows were dropped and cut as this run drops and cuts them."""
    return (found["max_length"], found["too_long"]) == (spec.training.max_length, spec.training.too_long)


def _file(home: StudioHome, spec: RunSpec) -> Path:
    about = [spec.data.model_dump(mode="json", exclude=TAKEN), spec.model.id, spec.model.revision, _times(spec.data.source)]
    return home.cache / "measured-data" / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]}.json"


def _times(source: str) -> list[tuple[str, int, int]]:
    """Name, size and time of the file at a path, or of the files in the folder; none for any other source."""
    try:
        path = Path(source).expanduser()
        files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
        stats = [(file.name, file.stat()) for file in files]
    except (OSError, RuntimeError, ValueError):  # half a path is typed, or nobody's home
        return []
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
