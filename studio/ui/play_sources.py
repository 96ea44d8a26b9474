"""What can answer: a base model by name, held in one way or in several; adapters from runs, the home's adapters folder, or any folder.

Pure of Gradio: the command line asks with it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import PlayError, RunError
from studio.core.paths import RunPaths, StudioHome
from studio.core.spec import ModelSpec
from studio.jobs import store
from studio.ui.conversation import BASE, Pane
from studio.ui.studio import Studio

MOST_BESIDE = 4
"""Panes besides the base: adapters, and copies of the base that are held in another way."""
RUN = "run:"
FOLDER = "folder:"
CONFIG = "adapter_config.json"
HELD_AS = {"none": "not quantized", "int8": "int8", "nf4": "NF4", "fp4": "FP4"}


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
        if _can_answer(RunPaths(studio.home.runs / run.id))
    ]
    dropped = sorted(path.parent for path in studio.home.adapters.glob(f"*/{CONFIG}"))
    return found + [(f"{folder.name} (adapters folder)", FOLDER + str(folder)) for folder in dropped]


def _can_answer(paths: RunPaths) -> bool:
    """The run has an adapter, and settings that say what it goes on."""
    if not (paths.adapter / CONFIG).is_file():
        return False
    try:
        store.read_spec_of(paths)
    except RunError:
        return False
    return True


def base_of(studio: Studio, adapter: str) -> tuple[str, str] | None:
    """(model id, quantization) that a run's adapter was trained over; None for a folder."""
    if not adapter.startswith(RUN):
        return None
    spec = store.read_run(studio.home, adapter.removeprefix(RUN)).spec
    return spec.model.id, spec.quantization


def read_sources(home: StudioHome, model_id: str, quantization: str, adapters: Sequence[str], beside: Sequence[str] = ()) -> Sources:
    """The base held as `quantization` with `adapters` on it, and bare copies of it held as each of `beside`.

    Raises PlayError, RunNotFound, and MethodError later, when the worker reads the folders.
    """
    if not (model_id or "").strip():
        raise PlayError("No base model is picked.", "Pick one, or name a hub id or a folder.")
    if len(adapters) + len(beside) > MOST_BESIDE:
        raise PlayError(
            f"{len(adapters) + len(beside)} panes are picked beside the base.", f"Pick at most {MOST_BESIDE}, adapters and copies together."
        )
    twice = [held for held in beside if held == quantization]
    if twice:
        raise PlayError(f"The base is held in this way already: {HELD_AS[twice[0]]}.", "Pick another way beside it.")
    model, system = ModelSpec(id=model_id.strip()), ""
    panes, folders = [Pane(BASE, f"Base ({HELD_AS[quantization]})" if beside else "Base")], {}
    for adapter in adapters:
        title, folder = _find_adapter(home, adapter)
        if adapter.startswith(RUN):
            spec = store.read_run(home, adapter.removeprefix(RUN)).spec
            system = system or spec.data.system_prompt
            model = spec.model if spec.model.id == model.id else model
        panes.append(Pane(adapter, title))
        folders[adapter] = str(folder)
    copies = {f"{BASE}:{held}": held for held in beside}
    panes += [Pane(pane, f"Base ({HELD_AS[held]})") for pane, held in copies.items()]
    load = {"model": model.model_dump(mode="json"), "quantization": quantization, "adapters": folders, "beside": copies}
    return Sources(load, tuple(panes), system)


def _find_adapter(home: StudioHome, adapter: str) -> tuple[str, Path]:
    if adapter.startswith(RUN):
        record = store.read_run(home, adapter.removeprefix(RUN))
        if not (record.paths.adapter / CONFIG).is_file():
            raise PlayError(f"The run {record.name} has no adapter.", "Pick a run that finished or was stopped after its first step.")
        return record.name, record.paths.adapter
    folder = Path(adapter.removeprefix(FOLDER)).expanduser()
    if not (folder / CONFIG).is_file():
        raise PlayError(f"{folder} holds no adapter: {CONFIG} is missing.", "Name the folder that holds it, or pick a run.")
    return folder.name, folder
