"""Which folder a person means: a base model by its id or path, an adapter by its run's id or folder.

Knows no tensors. A hub model counts as on disk when its configuration lies in the hub's cache; nothing is ever fetched from here.
"""

from __future__ import annotations

from pathlib import Path

from studio.analysis.adapter_files import CONFIG
from studio.analysis.cli import find_adapter
from studio.core.catalog import find_model
from studio.core.errors import AnalysisError
from studio.core.paths import RUN_ID, StudioHome


def model_folder(model_id: str, home: StudioHome) -> Path:
    """The folder of a model that is on disk. Errors: ModelNotFound, or AnalysisError for one that is only on the hub."""
    from studio.models.load import resolve_model

    if not model_id.strip():
        raise AnalysisError("No model was chosen.", "Choose a model, or type the path of its folder.")
    found = resolve_model(model_id, home)
    folder = found if isinstance(found, Path) else _cached_folder(found) or _converted(found, home)
    if folder is None or not folder.is_dir():
        raise AnalysisError(
            f"The weights of {model_id} are not on this disk.", "Train with it once, which fetches it, or type the path of a folder."
        )
    return folder


def _cached_folder(hub_id: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(hub_id, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def _converted(hub_id: str, home: StudioHome) -> Path | None:
    """The starter model's own folder, where its hub id is meant: adapters state that id as their base."""
    entry = find_model(hub_id)
    return home.starter_model if entry and entry.id == "starter" and (home.starter_model / "config.json").is_file() else None


def run_or_folder(name: str, home: StudioHome) -> Path:
    """A run's folder by its id, an adapter of the home by its name, else a folder by its path. Errors: AnalysisError, RunNotFound."""
    if not name.strip():
        raise AnalysisError("No run was chosen.", "Choose a run, or type the path of an adapter folder.")
    if RUN_ID.fullmatch(name) and (home.runs / name).is_dir():
        return home.run(name).folder
    candidates = (home.adapters / name if RUN_ID.fullmatch(name) else None, Path(name).expanduser())
    folder = next((path for path in candidates if path and path.is_dir()), None)
    if folder is None:
        raise AnalysisError(f"There is no run and no folder {name!r}.", "Choose a run, or type the path of an adapter folder.")
    return folder


def is_model(name: str, home: StudioHome) -> bool:
    """Whether a whole model is meant, not a run or an adapter: a known name, a GGUF file, or a folder with weights of its own."""
    if RUN_ID.fullmatch(name) and ((home.runs / name).is_dir() or (home.adapters / name).is_dir()):
        return False
    path = Path(name).expanduser()
    whole = (path / "config.json").is_file() and not (path / CONFIG).is_file()
    return whole or find_model(name) is not None or path.suffix == ".gguf"


def adapter_folder(name: str, home: StudioHome) -> Path:
    """The adapter folder of a run or of a folder typed. Errors: as run_or_folder and find_adapter."""
    return find_adapter(run_or_folder(name, home))
