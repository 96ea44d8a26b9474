"""The run an export is made of, and the place it is put: built beside, renamed when whole, nothing overwritten."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import RunError, from_os_error
from studio.core.files import open_to_all, read_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunResult
from studio.core.spec import RunSpec
from studio.methods import get_method


@dataclass(frozen=True)
class ExportSource:
    """A run with a saved adapter. `name` is the person's name for it, else its id."""

    paths: RunPaths
    home: StudioHome
    spec: RunSpec
    name: str
    notes: str
    result: RunResult | None
    environment: dict[str, Any]

    @property
    def adapter(self) -> Path:
        return self.paths.adapter


def read_source(home: StudioHome, run_id: str) -> ExportSource:
    """Raises RunNotFound, RunError where the run saved no adapter, SpecError for settings of another version."""
    paths = home.run(run_id)
    data = read_json(paths.spec)
    if data is None:
        raise RunError(f"The settings of run {run_id} cannot be read.", f"Look at {paths.spec}.")
    if not (paths.adapter / "adapter_config.json").is_file():
        raise RunError(f"Run {run_id} has saved no adapter, so there is nothing to export.", "Let it finish, or stop it with Stop & save.")
    spec, notes, ended = RunSpec.parse(data), read_json(paths.notes) or {}, read_json(paths.result)
    try:
        result = RunResult.from_json(ended) if ended else None
    except (KeyError, ValueError) as error:
        raise RunError(f"The result of run {run_id} cannot be read.", f"Look at {paths.result}.") from error
    return ExportSource(
        paths, home, spec, str(notes.get("name") or spec.name or run_id), str(notes.get("text") or ""),
        result, read_json(paths.environment) or {},
    )  # fmt: skip


def require_mergeable(source: ExportSource) -> None:
    """Raises RunError for the families that are no change of the base's weights."""
    family = source.spec.method.family
    if family not in ("lora", "qlora"):
        reason = {
            "adapter": "its bottleneck has a nonlinearity between two layers",
            "prefix": "it is keys and values before the first token, not a change of weights",
        }[family]
        raise RunError(
            f"{get_method(family).title} cannot be merged into the base: {reason}.", "Export the adapter, and load it beside the base."
        )


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `target` at the end. Raises RunError where `target` exists, DiskFull or SetupError."""
    part = _begin(target)
    try:
        yield part
        open_to_all(part)
        part.rename(target)
    except OSError as error:
        raise from_os_error(error, f"exporting to {target.name}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """The same for a single file."""
    part = _begin(target)
    try:
        yield part / target.name
        (part / target.name).rename(target)
    except OSError as error:
        raise from_os_error(error, f"exporting to {target.name}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _begin(target: Path) -> Path:
    if target.exists():
        raise RunError(f"{target} exists already, and nothing is overwritten.", "Name another place with --out, or remove it first.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    except OSError as error:
        raise from_os_error(error, f"exporting to {target.name}") from error


def free_target(folder: Path, name: str) -> Path:
    """A path in `folder` that does not exist yet: 'merged', then 'merged-2'. For exports that name no place."""
    stem, dot, suffix = name.partition(".")
    for number in range(1, 10_000):
        target = folder / (name if number == 1 else f"{stem}-{number}{dot}{suffix}")
        if not target.exists():
            return target
    raise RunError(f"There are too many exports in {folder}.", "Remove old ones.")
