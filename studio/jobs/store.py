"""What runs there are and how each stands, read from their folders; nothing about a run is remembered here but what its files say.

The status is computed: result.json wins, unreadable where its values make no sense; then a live process; then, with a dead process,
lost; a folder with only its spec is queued.
Summaries of runs that are over are kept in memory under the modification times of the files they came from.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from studio.core.errors import RunError, SpecError
from studio.core.files import read_json, read_tail
from studio.core.paths import RUN_ID, RunPaths, StudioHome
from studio.core.records import Progress, RunNotes, RunResult, RunStatus, is_number, whole
from studio.core.spec import RunSpec
from studio.jobs.metrics import last_value, read_losses_around, sparkline
from studio.jobs.process import ProcessIdentity, find_process

PLAN_FIELDS: dict[str, Callable[[Any], bool]] = dict.fromkeys(("memory_bytes", "trainable_parameters", "total_parameters"), is_number)
ENVIRONMENT_FIELDS: dict[str, Callable[[Any], bool]] = {
    "versions": lambda value: isinstance(value, dict),
    "git": lambda value: value is None or isinstance(value, dict),
    "data_fingerprint": lambda value: isinstance(value, str),
}
"""What is read of these files by others than a person, and what it must be."""


@dataclass(frozen=True)
class RunSummary:
    """One row of the runs' table. Losses in nats per trained-on token; created in local time."""

    id: str
    name: str
    status: RunStatus
    created: datetime
    family: str = ""
    model: str = ""
    dataset: str = ""
    steps: int = 0
    total_steps: int = 0
    loss: float | None = None
    eval_loss_before: float | None = None
    eval_loss_after: float | None = None
    seconds: float = 0.0
    trainable_parameters: int = 0
    peak_memory_bytes: int = 0
    tags: tuple[str, ...] = ()
    sparkline: tuple[float, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """Everything the files of one run say, metrics and log left out."""

    paths: RunPaths
    spec: RunSpec
    status: RunStatus
    created: datetime
    progress: Progress
    notes: RunNotes
    result: RunResult | None
    environment: dict[str, Any] | None
    plan: dict[str, Any] | None
    seconds: float = 0.0
    damaged: tuple[str, ...] = ()
    """Names of files that hold values no run writes; these are left out here."""

    @property
    def id(self) -> str:
        return self.paths.id

    @property
    def name(self) -> str:
        return self.notes.name or self.spec.name or self.id


def read_status(paths: RunPaths) -> RunStatus:
    """How the run stands at this moment."""
    status = _ended(paths)
    if status is not None:
        return status
    if not paths.process.exists():
        return RunStatus.QUEUED
    if is_process_alive(paths):
        return RunStatus.STOPPING if paths.stop.exists() else RunStatus.RUNNING
    # It may have written its result between the first look and its end.
    return _ended(paths) or RunStatus.LOST


def _ended(paths: RunPaths) -> RunStatus | None:
    """What result.json says; None where there is none yet, or half of one."""
    data = read_json(paths.result)
    if data is None:
        return None
    result = _parse_result(data)
    return RunStatus.UNREADABLE if result is None else result.status


def is_process_alive(paths: RunPaths) -> bool:
    """A process works on the run, be it after its result."""
    identity = find_worker(paths)
    return identity is not None and identity.is_alive(working_on=paths.id)


def find_worker(paths: RunPaths) -> ProcessIdentity | None:
    """The process that works or has worked on the run. A child makes process.json first and fills it a moment later; until then it is
    known by its command line."""
    identity = ProcessIdentity.from_json(read_json(paths.process))
    return find_process(paths.id) if identity is None and paths.process.exists() else identity


def read_result(paths: RunPaths) -> RunResult | None:
    """result.json, or None when there is none that can be read."""
    return _parse_result(read_json(paths.result) or {})


def _parse_result(data: dict[str, Any]) -> RunResult | None:
    try:
        return RunResult.from_json(data)
    except (KeyError, ValueError):
        return None


def read_progress(paths: RunPaths) -> Progress:
    data = read_json(paths.progress) or {}
    counts = (whole(data.get(name)) for name in ("step", "total_steps", "batch", "batches"))
    return Progress(str(data.get("phase", "")), *counts, data["seconds"] if is_number(data.get("seconds")) else None)


def _read_progress_now(paths: RunPaths, status: RunStatus) -> Progress:
    """As read_progress; nothing yet of a run at work whose process has not said how far it is, for what it says is of before it went on."""
    is_old = status.is_active and _modified_ns(paths.progress) < _modified_ns(paths.process)
    return Progress("") if is_old else read_progress(paths)


def _read_seconds(paths: RunPaths, status: RunStatus, progress: Progress, result: RunResult | None) -> float:
    """How long the run has trained; of one at work up to this moment, for its files may be a long step old."""
    if result is not None and result.seconds:
        return result.seconds
    if status.is_active and progress.seconds is not None:
        return progress.seconds + max(0.0, time.time() - _modified_ns(paths.progress) / 1e9)
    return last_value(paths.metrics, "seconds") or 0.0


def read_notes(paths: RunPaths) -> RunNotes:
    data = read_json(paths.notes) or {}
    tags = data.get("tags")
    return RunNotes(str(data.get("name", "")), [str(tag) for tag in tags] if isinstance(tags, list) else [], str(data.get("text", "")))


def read_log(paths: RunPaths, size_bytes: int = 16_384) -> str:
    """The end of what the run's process printed."""
    return read_tail(paths.log, size_bytes)


def read_created(paths: RunPaths) -> datetime:
    """When the run was asked for: its id says so; the spec's modification time where the folder was renamed."""
    try:
        return datetime.strptime(paths.id[:15], "%Y%m%d-%H%M%S")
    except ValueError:
        return datetime.fromtimestamp(paths.spec.stat().st_mtime).replace(microsecond=0)


def read_spec_of(paths: RunPaths) -> RunSpec:
    """The run's settings. Raises RunError where another version of the studio wrote what this one cannot read."""
    data = read_json(paths.spec)
    if data is None:
        raise RunError(f"The settings of run {paths.id} cannot be read.", f"Look at {paths.spec}.")
    try:
        return RunSpec.parse(data)
    except SpecError as error:
        raise RunError(f"The settings of run {paths.id} do not fit this version of the studio: {error.message}") from error


def read_run(home: StudioHome, run_id: str) -> RunRecord:
    """All that is known of one run. Raises RunNotFound or RunError."""
    paths = home.run(run_id)
    environment, is_environment = _read_known(paths.environment, ENVIRONMENT_FIELDS)
    plan, is_plan = _read_known(paths.plan, PLAN_FIELDS)
    damaged = [path.name for path, is_right in ((paths.environment, is_environment), (paths.plan, is_plan)) if not is_right]
    status, result = read_status(paths), read_result(paths)
    progress = _read_progress_now(paths, status)
    return RunRecord(
        paths, read_spec_of(paths), status, read_created(paths), progress, read_notes(paths), result, environment, plan,
        _read_seconds(paths, status, progress, result), tuple(damaged),
    )  # fmt: skip


def run_folders(home: StudioHome) -> list[RunPaths]:
    """Every run of the home, oldest first. A folder without spec.json is no run (yet)."""
    try:
        names = sorted(entry.name for entry in home.runs.iterdir() if RUN_ID.fullmatch(entry.name))
    except OSError:
        return []
    return [RunPaths(home.runs / name) for name in names if (home.runs / name / "spec.json").is_file()]


def list_runs(home: StudioHome) -> list[RunSummary]:
    """A summary of every run, newest first. One unreadable run does not hide the others."""
    return [_summaries.get(paths) for paths in reversed(run_folders(home))]


class _SummaryCache:
    """Summaries of runs that are over. A changed file is a changed signature, so an edited note is seen at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Path, tuple[tuple[int, ...], RunSummary]] = {}

    def get(self, paths: RunPaths) -> RunSummary:
        signature = tuple(_modified_ns(path) for path in (paths.result, paths.notes, paths.spec))
        with self._lock:
            known = self._kept.get(paths.folder)
        if known is not None and known[0] == signature:
            return known[1]
        summary = _summarize(paths)
        if signature[0]:
            with self._lock:
                self._kept[paths.folder] = (signature, summary)
        return summary


_summaries = _SummaryCache()


def _summarize(paths: RunPaths) -> RunSummary:
    settings = read_json(paths.spec)
    spec = settings or {}
    notes, result = read_notes(paths), read_result(paths)
    status = result.status if result else read_status(paths)
    progress = _read_progress_now(paths, status)
    before, after = (result.eval_loss_before, result.eval_loss_after) if result else read_losses_around(paths.metrics)
    return RunSummary(
        id=paths.id,
        name=notes.name or str(spec.get("name") or paths.id),
        status=RunStatus.UNREADABLE if settings is None and status.is_over else status,
        created=read_created(paths),
        family=_text(spec, "method", "family"),
        model=_text(spec, "model", "id"),
        dataset=_text(spec, "data", "source"),
        steps=result.steps if result and result.steps else progress.step,
        total_steps=progress.total_steps,
        loss=last_value(paths.metrics, "loss"),
        eval_loss_before=before,
        eval_loss_after=after,
        seconds=_read_seconds(paths, status, progress, result),
        trainable_parameters=result.trainable_parameters if result else 0,
        peak_memory_bytes=result.peak_memory_bytes if result else 0,
        tags=tuple(notes.tags),
        sparkline=sparkline(paths.metrics),
    )


def _modified_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _text(spec: dict[str, Any], part: str, field: str) -> str:
    values = spec.get(part)
    return str(values.get(field, "")) if isinstance(values, dict) else ""


def _read_known(path: Path, fits: dict[str, Callable[[Any], bool]]) -> tuple[dict[str, Any] | None, bool]:
    """The object in a file without the fields that hold what they cannot, and whether all was as a run writes it; None for no object."""
    data = read_json(path)
    if data is None:
        return None, not path.exists()
    wrong = {name for name, is_right in fits.items() if name in data and not is_right(data[name])}
    return {name: value for name, value in data.items() if name not in wrong}, not wrong
