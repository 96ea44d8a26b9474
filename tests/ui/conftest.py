"""Runs whose folders are written by hand: no process is started, nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studio.core.files import write_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunNotes, RunResult, RunStatus
from studio.core.spec import RunSpec


@pytest.fixture
def home(studio_home: Path) -> StudioHome:
    return StudioHome.find(studio_home)


@pytest.fixture
def make_run(home: StudioHome) -> Callable[..., RunPaths]:
    """A finished run: its id ends in `name`; `spec` and `environment` are as given, the loss falls from 2 to `loss`."""

    def make(name: str, loss: float = 1.0, steps: int = 10, spec: dict[str, Any] | None = None, tags: tuple[str, ...] = (),
             fingerprint: str = "same", over: bool = True) -> RunPaths:  # fmt: skip
        paths = RunPaths(home.runs / f"20260101-000000-{name}")
        paths.folder.mkdir()
        lines = [{"step": 0, "eval_loss": 2.0}]
        lines += [{"step": s, "loss": 2 - (2 - loss) * s / steps, "memory_bytes": 10**9, "seconds": float(s)} for s in range(1, steps + 1)]
        if over:
            lines.append({"step": steps, "eval_loss": loss, "seconds": float(steps)})
            write_json(paths.environment, {"data_fingerprint": fingerprint, "versions": {"torch": "2.13"}, "git": {"commit": "a" * 40}})
            result = RunResult(RunStatus.FINISHED, steps, 2.0, loss, loss, 100, 80, float(steps), 1000, 9000, 10**9, 4000)
            write_json(paths.result, result.to_json())
            paths.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        write_json(paths.plan, {"memory_bytes": 9 * 10**8, "trainable_parameters": 1000, "total_parameters": 10_000})
        if tags:
            write_json(paths.notes, vars(RunNotes(tags=list(tags))))
        write_json(paths.spec, RunSpec.parse({"name": name, **(spec or {})}).to_json())
        return paths

    return make
