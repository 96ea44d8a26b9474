"""What can answer: base models by name, adapters from runs, from the home's adapters folder, or from any folder by its path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import PlayError
from studio.core.paths import RunPaths
from studio.core.spec import ModelSpec
from studio.jobs import store
from studio.ui.conversation import BASE, Pane
from studio.ui.studio import Studio

MOST_ADAPTERS = 4
RUN = "run:"
FOLDER = "folder:"
CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Sources:
    """What one question is asked of: arguments of the worker's load, and the panes in order."""

    load: dict[str, Any]
    panes: tuple[Pane, ...]
    system: str
    """The system prompt the first run was trained with."""


def adapter_choices(studio: Studio) -> list[tuple[str, str]]:
    """Runs whose adapter can answer, newest first, then dropped-in folders."""
    runs = [run for run in store.list_runs(studio.home) if run.status.is_over]
    found = [
        (f"{run.name} · {run.created:%d %b %H:%M}", RUN + run.id)
        for run in runs
        if (RunPaths(studio.home.runs / run.id).adapter / CONFIG).is_file()
    ]
    dropped = sorted(path.parent for path in studio.home.adapters.glob(f"*/{CONFIG}"))
    return found + [(f"{folder.name} (adapters folder)", FOLDER + str(folder)) for folder in dropped]


def base_of(studio: Studio, adapter: str) -> tuple[str, str] | None:
    """(model id, quantization) that a run's adapter was trained over; None for a folder."""
    if not adapter.startswith(RUN):
        return None
    spec = store.read_run(studio.home, adapter.removeprefix(RUN)).spec
    return spec.model.id, spec.quantization


def read_sources(studio: Studio, model_id: str, quantization: str, adapters: list[str]) -> Sources:
    """Raises PlayError, RunNotFound, and MethodError later, when the worker reads the folders."""
    if not (model_id or "").strip():
        raise PlayError("No base model is picked.", "Pick one, or name a hub id or a folder.")
    if len(adapters) > MOST_ADAPTERS:
        raise PlayError(f"{len(adapters)} adapters are picked.", f"Pick at most {MOST_ADAPTERS}.")
    model, system = ModelSpec(id=model_id.strip()), ""
    panes, folders = [Pane(BASE, "Base")], {}
    for adapter in adapters:
        title, folder = _find_adapter(studio, adapter)
        if adapter.startswith(RUN):
            spec = store.read_run(studio.home, adapter.removeprefix(RUN)).spec
            system = system or spec.data.system_prompt
            model = spec.model if spec.model.id == model.id else model
        panes.append(Pane(adapter, title))
        folders[adapter] = str(folder)
    load = {"model": model.model_dump(mode="json"), "quantization": quantization, "adapters": folders}
    return Sources(load, tuple(panes), system)


def _find_adapter(studio: Studio, adapter: str) -> tuple[str, Path]:
    if adapter.startswith(RUN):
        record = store.read_run(studio.home, adapter.removeprefix(RUN))
        if not (record.paths.adapter / CONFIG).is_file():
            raise PlayError(f"The run {record.name} has no adapter.", "Pick a run that finished or was stopped after its first step.")
        return record.name, record.paths.adapter
    folder = Path(adapter.removeprefix(FOLDER)).expanduser()
    if not (folder / CONFIG).is_file():
        raise PlayError(f"{folder} holds no adapter: {CONFIG} is missing.", "Name the folder that holds it, or pick a run.")
    return folder.name, folder
