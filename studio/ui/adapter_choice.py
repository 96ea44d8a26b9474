"""Which adapters of a family can be looked into: runs that saved one, and folders dropped into the home; any folder can be typed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from studio.core.files import read_json
from studio.core.paths import RUN_ID, RunPaths
from studio.jobs import store
from studio.methods.adapter_folder import FAMILIES
from studio.ui.studio import Studio

LORA = ("lora", "qlora")
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def adapter_choices(studio: Studio, families: Sequence[str] = LORA) -> list[tuple[str, str]]:
    """(title, value) of each of `families`; the value is a run's id or a folder's path. Newest runs first."""
    runs = [
        (f"{run.name} · {run.created:%d %b %H:%M}", run.id)
        for run in store.list_runs(studio.home)
        if run.family in families and has_adapter(RunPaths(studio.home.runs / run.id))
    ]
    dropped = [(f"{path.name} (folder)", str(path)) for path in sorted(studio.home.adapters.glob("*")) if _family(path) in families]
    return [*runs, *dropped]


def relist(choices: list[tuple[str, str]], chosen: str | None, wanted: str | None) -> dict[str, Any]:
    """A dropdown's update: fresh choices, and its value only where that is another. An answer that brought the old value back would
    undo what a person has typed while it was on its way."""
    return gr.update(choices=choices) if chosen == wanted else gr.update(choices=choices, value=wanted)


def _family(folder: Path) -> str:
    """The family of the adapter in a folder; '' where there is none."""
    return FAMILIES.get(str((read_json(folder / CONFIG) or {}).get("peft_type")), "")


def has_adapter(paths: RunPaths) -> bool:
    """The run has saved an adapter or at least a snapshot of one."""
    return (paths.adapter / CONFIG).is_file() or any(paths.snapshots.glob(f"step-*/{CONFIG}"))


def title_of(studio: Studio, value: str) -> str:
    """A short name for a run's id or a folder."""
    paths = RunPaths(studio.home.runs / value)
    if not RUN_ID.fullmatch(value) or not paths.spec.is_file():
        return Path(value).name
    return store.read_notes(paths).name or str((read_json(paths.spec) or {}).get("name") or value)


def is_training(studio: Studio, value: str) -> bool:
    """Whether the adapter is that of a run that is not over."""
    paths = RunPaths(studio.home.runs / value)
    return bool(RUN_ID.fullmatch(value)) and paths.spec.is_file() and store.read_status(paths).is_active


def state_of(studio: Studio, value: str) -> str:
    """Changes when the adapter's files, or those of its run's snapshots, do, and when its run ends."""
    folder = Path(value).expanduser()
    if RUN_ID.fullmatch(value):
        folder = next((place for place in (studio.home.runs / value, studio.home.adapters / value) if place.is_dir()), folder)
    run = RunPaths(folder)
    files = [folder / WEIGHTS, run.adapter / WEIGHTS, *sorted(run.snapshots.glob(f"step-*/{WEIGHTS}"))]
    times = [file.stat().st_mtime_ns for file in files if file.is_file()]
    return f"{value} {len(times)} {max(times, default=0)}{' training' if is_training(studio, value) else ''}"


def base_of(studio: Studio, adapter: str, stated: str) -> str:
    """The base model of a run as its spec names it; for a folder, as its own configuration does."""
    if (studio.home.runs / adapter / "spec.json").is_file():
        return store.read_run(studio.home, adapter).spec.model.id
    return stated
