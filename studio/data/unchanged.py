"""Whether a run's data are still those it was trained on, asked before it goes on from a checkpoint.

The training child asks the same of the checkpoint, but by then the run's last result is gone. Only files on this machine are looked
at; a hub's dataset, and the starter dataset where it has to be built anew, are left to the child.
"""

from __future__ import annotations

from pathlib import Path

from studio.core.errors import RunError
from studio.core.files import read_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.spec import DataSpec
from studio.data.hub import HUB_ID
from studio.data.load import load_data
from studio.data.read import SUFFIXES, find_files

ADVICE = "Put the data back as they were, or start a new run with the same settings: a run goes on only with the rows it began with."


def require_same_data(home: StudioHome, spec: DataSpec, run: RunPaths) -> None:
    """Raises RunError where the run's file or folder is gone or gives other rows than when the run began; DataError as load_data."""
    known = (read_json(run.environment) or {}).get("data_fingerprint")
    path = home.starter_data if spec.source == "starter" else Path(spec.source).expanduser()
    if not path.exists():
        is_path = not HUB_ID.fullmatch(spec.source) or path.suffix.lower() in SUFFIXES  # as studio.data.source tells
        if is_path and spec.source != "starter":
            raise RunError(f"The data of run {run.id} are gone: there is no {spec.source}.", ADVICE)
        return
    if not isinstance(known, str) or not _changed_since(path, run.environment.stat().st_mtime_ns):
        return
    if load_data(spec, home).fingerprint != known:
        raise RunError(f"The data of run {run.id} have changed since it began: {spec.source} gives other rows now.", ADVICE)


def _changed_since(path: Path, moment_ns: int) -> bool:
    """Whether a file at the path was written, put into its place or taken away after that moment. Only then is a large file read."""
    files = [file for files in find_files(path).values() for file in files]
    # A file deleted or renamed leaves its mark on the folder it was in, not on the files that remain.
    folders = [path, *(place for place in path.resolve().rglob("*") if place.is_dir())] if path.is_dir() else []
    stats = [place.stat() for place in (*files, *folders)]
    return any(max(stat.st_mtime_ns, stat.st_ctime_ns) > moment_ns for stat in stats)
