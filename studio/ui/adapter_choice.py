"""Which adapters can be looked into: runs of LoRA's family that saved one, and adapters dropped into the home; any folder can be typed."""

from __future__ import annotations

from pathlib import Path

from studio.core.paths import RunPaths
from studio.jobs import store
from studio.ui.studio import Studio

FAMILIES = ("lora", "qlora")
CONFIG = "adapter_config.json"


def adapter_choices(studio: Studio) -> list[tuple[str, str]]:
    """(title, value) of each; the value is a run's id or a folder's path. Newest runs first."""
    runs = [
        (f"{run.name} · {run.created:%d %b %H:%M}", run.id)
        for run in store.list_runs(studio.home)
        if run.family in FAMILIES and has_adapter(RunPaths(studio.home.runs / run.id))
    ]
    dropped = [(f"{path.name} (folder)", str(path)) for path in sorted(studio.home.adapters.glob("*")) if (path / CONFIG).is_file()]
    return [*runs, *dropped]


def has_adapter(paths: RunPaths) -> bool:
    """The run has saved an adapter or at least a snapshot of one."""
    return (paths.adapter / CONFIG).is_file() or any(paths.snapshots.glob(f"step-*/{CONFIG}"))


def title_of(studio: Studio, value: str) -> str:
    """A short name for a run's id or a folder."""
    return next((title.partition(" · ")[0] for title, known in adapter_choices(studio) if known == value), Path(value).name)


def base_of(studio: Studio, adapter: str, stated: str) -> str:
    """The base model of a run as its spec names it; for a folder, as its own configuration does."""
    if (studio.home.runs / adapter / "spec.json").is_file():
        return store.read_run(studio.home, adapter).spec.model.id
    return stated
