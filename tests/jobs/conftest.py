"""A home, specs of a scripted run of milliseconds, and its child on the path of every process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from studio.core.paths import StudioHome
from studio.core.spec import RunSpec
from studio.jobs import queue, store
from studio.jobs.process import end_group

ROOT = Path(__file__).resolve().parents[2]
MODULE = "scripted_child"


@pytest.fixture
def home(studio_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StudioHome]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests" / "faults")]))
    home = StudioHome.find(studio_home)
    yield home
    for paths in store.run_folders(home):
        identity = store.find_worker(paths)
        if identity and identity.pid != os.getpid():
            end_group(identity, grace_s=0, working_on=paths.id)
    queue.reap_children()


@pytest.fixture
def make_spec() -> Callable[..., RunSpec]:
    """A spec of the scripted child: its steps, and its script (see tests/faults/scripted_child.py)."""

    def make(name: str = "run", steps: int = 10, script: str = "0.002") -> RunSpec:
        return RunSpec.parse({"name": name, "data": {"system_prompt": script}, "training": {"max_steps": steps}})

    return make
