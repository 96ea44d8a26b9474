"""Start, stop, cancel, resume and extend runs. Every action is a change of files in the run's folder, so any process may ask for it.

Knows nothing of training: the queue starts `python -m studio.train RUN_DIR`, which reads the folder and writes into it.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import filelock

from studio.core.errors import DiskFull, RunError, SpecError, from_os_error
from studio.core.files import find_pickles, read_json, write_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunResult, RunStatus
from studio.core.spec import RunSpec
from studio.jobs.process import end_group, find_process
from studio.jobs.queue import STOP_GRACE_S, TRAIN_MODULE, advance_queue, end_run_process, lock_queue
from studio.jobs.store import read_progress, read_result, read_spec_of, read_status

LOCK_TIMEOUT_S = 150.0
SLUG_LENGTH = 60


def start_run(home: StudioHome, spec: RunSpec, plan: dict[str, Any] | None = None, module: str = TRAIN_MODULE) -> str:
    """Make the run's folder, put it into the queue, return its id; it starts at once where the device is free.

    Raises SpecError before anything is made, DiskFull or SetupError where the folder cannot be written.
    """
    problems = spec.problems()
    if problems:
        raise SpecError(problems)
    paths = _make_folder(home, spec)
    if plan is not None:
        write_json(paths.plan, plan)
    write_json(paths.spec, spec.to_json())  # last: from here on the folder is a run
    advance_queue(home, module)
    return paths.id


def stop_run(home: StudioHome, run_id: str, grace_s: float = STOP_GRACE_S) -> RunStatus:
    """Ask a run to save its adapter and end; a waiting run is cancelled. The status after asking. Raises RunError where it is over."""
    paths = home.run(run_id)
    status = read_status(paths)
    if status is RunStatus.QUEUED:
        return cancel_run(home, run_id)
    _require_active(paths, status, "stopped")
    if status is RunStatus.RUNNING:
        try:
            write_json(paths.stop, {"grace_s": grace_s})
        except DiskFull:
            paths.stop.touch()  # an empty one asks as well
    return read_status(paths)


def cancel_run(home: StudioHome, run_id: str) -> RunStatus:
    """End a run at once and keep nothing of it but settings, curves and log; what it had saved before a resume stays.

    A waiting run never starts; one that waited to be resumed is again what it was. Raises RunError where it is over.
    """
    paths = home.run(run_id)
    with _locked(home):
        status = read_status(paths)
        if status is RunStatus.QUEUED:
            return _withdraw(paths)
        _require_active(paths, status, "cancelled")
        end_run_process(paths, grace_s=0)
        if read_result(paths) is not None:  # it had just ended by itself
            return read_status(paths)
        for half in paths.folder.glob(".*.part"):  # what the killed process was writing
            half.unlink(missing_ok=True)
        if not paths.resume.exists():
            for folder in (paths.adapter, paths.snapshots, paths.checkpoints):
                shutil.rmtree(folder, ignore_errors=True)
        # Last, so that a full disk has room for it again.
        write_json(paths.result, RunResult(RunStatus.CANCELLED, steps=read_progress(paths).step).to_json())
    return RunStatus.CANCELLED


def resume_run(
    home: StudioHome, run_id: str, checkpoint: str | int | None = None, changes: dict[str, Any] | None = None, module: str = TRAIN_MODULE
) -> str:
    """Put a run that is over back into the queue, to go on from a checkpoint: a name, a step, or None for the last.

    `changes` are merged into the spec; base, data and method must stay. Raises RunError or SpecError, with nothing changed.
    """
    paths = home.run(run_id)
    with _locked(home):
        status = read_status(paths)
        if not status.is_over:
            raise RunError(f"Run {run_id} is {status.value}: only a run that is over can be resumed.")
        chosen = _choose_checkpoint(paths, checkpoint)
        before = read_spec_of(paths)
        spec = _changed_spec(before, changes or {})
        was = {"spec": before.to_json(), "result": read_json(paths.result), "process": read_json(paths.process)}
        write_json(paths.resume, {"checkpoint": chosen.name, **was})
        if spec != before:
            write_json(paths.spec, spec.to_json())
        # result.json last: until it is gone the run is over, whatever happens to this process.
        for file in (paths.stop, paths.process, paths.result):
            file.unlink(missing_ok=True)
    advance_queue(home, module)
    return run_id


def extend_run(
    home: StudioHome, run_id: str, *, epochs: float | None = None, max_steps: int | None = None, module: str = TRAIN_MODULE
) -> str:
    """Go on with a run that is over to a new total of epochs or steps. Raises RunError where that is not beyond what it has done."""
    paths = home.run(run_id)
    done, training = read_progress(paths), read_spec_of(paths).training
    if max_steps is not None and max_steps <= done.step:
        raise RunError(f"Run {run_id} has done {done.step} steps already.", "Name a larger total.")
    if epochs is not None and not training.max_steps and done.step >= done.total_steps and epochs <= training.epochs:
        raise RunError(f"Run {run_id} has done {training.epochs:g} epochs already.", "Name a larger total.")
    changes = {"max_steps": max_steps} if max_steps is not None else {"epochs": epochs, "max_steps": 0}
    if epochs is None and max_steps is None:
        raise RunError("Nothing says how far the run is to go.", "Name a total of epochs or of steps.")
    return resume_run(home, run_id, changes={"training": changes}, module=module)


def list_checkpoints(paths: RunPaths) -> list[Path]:
    """The run's whole checkpoints, earliest step first. One is written under another name and renamed when it is whole."""
    if not paths.checkpoints.is_dir():
        return []
    found = [path for path in paths.checkpoints.iterdir() if _step_of(path) >= 0 and not path.is_symlink()]
    return sorted((path for path in found if (path / "state.json").is_file()), key=_step_of)


def wait_for_run(home: StudioHome, run_id: str, *, every_s: float = 0.5, module: str = TRAIN_MODULE) -> Iterator[RunStatus]:
    """The run's status about every `every_s`, advancing the queue meanwhile, until it is over; the last one is its end."""
    paths = home.run(run_id)
    while True:
        status = read_status(paths)
        yield status
        if status.is_over:
            return
        advance_queue(home, module)
        time.sleep(every_s)


@contextlib.contextmanager
def _locked(home: StudioHome) -> Iterator[None]:
    """The home's lock, so that no run starts meanwhile."""
    try:
        with lock_queue(home, LOCK_TIMEOUT_S):
            yield
    except filelock.Timeout:
        raise RunError("Another studio is starting a run and does not come to an end.", "Try again in a minute.") from None


def _make_folder(home: StudioHome, spec: RunSpec) -> RunPaths:
    slug = re.sub(r"[^a-z0-9]+", "-", (spec.name or f"{spec.method.family}-{Path(spec.model.id).name}").lower())[:SLUG_LENGTH].strip("-")
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{slug or spec.method.family}"
    for attempt in range(1, 10_000):
        folder = home.runs / (stem if attempt == 1 else f"{stem}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise from_os_error(error, "making the run's folder") from error
        return RunPaths(folder)
    raise RunError(f"There are too many runs called {stem}.", "Choose another name.")


def _require_active(paths: RunPaths, status: RunStatus, wanted: str) -> None:
    if not status.is_active:
        raise RunError(f"Run {paths.id} is {status.value}, so it cannot be {wanted}.")


def _withdraw(paths: RunPaths) -> RunStatus:
    """Take a waiting run out of the queue. The caller holds the lock, so nobody starts it meanwhile."""
    orphan = find_process(paths.id)  # of a studio that died while starting it
    if orphan is not None:
        end_group(orphan, grace_s=0, working_on=paths.id)
    before = read_json(paths.resume)
    if before is None:
        write_json(paths.result, RunResult(RunStatus.CANCELLED).to_json())
        return RunStatus.CANCELLED
    for file, name in ((paths.spec, "spec"), (paths.process, "process"), (paths.result, "result")):
        if isinstance(before.get(name), dict):
            write_json(file, before[name])
    paths.resume.unlink(missing_ok=True)
    return read_status(paths)


def _choose_checkpoint(paths: RunPaths, wanted: str | int | None) -> Path:
    found = list_checkpoints(paths)
    if not found:
        raise RunError(f"Run {paths.id} saved no checkpoint to go on from.", "Start it anew with the same settings.")
    chosen = [path for path in found if str(wanted) in (path.name, str(_step_of(path)))] if wanted is not None else found[-1:]
    if not chosen:
        raise RunError(f"Run {paths.id} has no checkpoint {wanted!r}.", f"There are: {', '.join(path.name for path in found)}.")
    pickles = find_pickles(chosen[0])
    if pickles:  # the child would refuse them too, but by then the run's last result is gone
        raise RunError(
            f"The checkpoint {chosen[0].name} holds pickled files ({', '.join(pickles[:3])}), which can run code when they are opened.",
            "Resume only from checkpoints that this studio wrote: they hold safetensors and JSON.",
        )
    return chosen[0]


def _step_of(path: Path) -> int:
    match = re.fullmatch(r"step-(\d+)", path.name)
    return int(match[1]) if match else -1


def _changed_spec(before: RunSpec, changes: dict[str, Any]) -> RunSpec:
    data = before.to_json()
    for part, value in changes.items():
        data[part] = {**data[part], **value} if isinstance(value, dict) and isinstance(data.get(part), dict) else value
    spec = RunSpec.parse(data)
    for part, title in (("model", "base model"), ("method", "method"), ("data", "data")):
        if getattr(spec, part) != getattr(before, part):
            raise RunError(f"A resumed run keeps its {title}.", "Start a new run to change it.")
    return spec
