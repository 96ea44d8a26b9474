"""A home on whose runs things are broken, and the one thing that must hold after each fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from studio.core.files import read_json, read_lines
from studio.core.paths import RunPaths, StudioHome
from studio.core.spec import RunSpec
from studio.jobs import queue, runner, store
from studio.jobs.process import find_processes

ROOT = Path(__file__).resolve().parents[2]
MODULE = "scripted_child"
Start = Callable[..., RunPaths]


@pytest.fixture
def home(studio_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StudioHome]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests" / "faults")]))
    home = StudioHome.find(studio_home)
    yield home
    for process in _children_below(home.root.parent):
        process.kill()
    queue.reap_children()


@pytest.fixture
def start(home: StudioHome) -> Start:
    """Start a run of the scripted child in the home, or in another one."""

    def start_one(name: str = "run", steps: int = 60, pause_s: float = 0.004, at: StudioHome = home) -> RunPaths:
        spec = RunSpec.parse({"name": name, "data": {"system_prompt": str(pause_s)}, "training": {"max_steps": steps}})
        return at.run(runner.start_run(at, spec, module=MODULE))

    return start_one


@pytest.fixture
def start_studio(home: StudioHome) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Another studio on the same home, as a process."""
    studios = []

    def start_one(runs: int, steps: int = 40, name: str = "run") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "studio_driver", str(home.root), str(runs), str(steps), name]
        studios.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True))
        return studios[-1]

    yield start_one
    for studio in studios:
        studio.kill()
        studio.wait()


@pytest.fixture
def drain() -> Callable[[StudioHome], None]:
    """Be the home's only studio until no run waits and none works."""

    def run_empty(home: StudioHome) -> None:
        deadline = time.monotonic() + 60
        while queue.active_run(home) or any(not store.read_status(paths).is_over for paths in store.run_folders(home)):
            assert time.monotonic() < deadline, [(run.id, run.status) for run in store.list_runs(home)]
            queue.advance_queue(home, MODULE)
            time.sleep(0.01)

    return run_empty


@pytest.fixture
def check_home() -> Callable[[StudioHome], None]:
    """No file half written, no saved checkpoint lost, no run over that is worked on, no process on no run."""

    def check(home: StudioHome) -> None:
        for paths in store.run_folders(home):
            status = store.read_status(paths)
            for file in paths.folder.rglob("*.json"):
                if ".part" not in file.name:
                    json.loads(file.read_text())
            saved = [int(path.name.split("-")[1]) for path in runner.list_checkpoints(paths)]
            for step in saved:
                assert read_json(paths.checkpoints / f"step-{step:06d}" / "state.json") == {"step": step, "complete": True}
            steps = [line["step"] for line in read_lines(paths.metrics)[0]]
            if paths.checkpoints.is_dir():
                assert saved == list(range(5, (saved or [0])[-1] + 1, 5)) and (max(steps) - (saved or [0])[-1] <= 5)
            assert store.is_process_alive(paths) == status.is_active
        alive = {process.pid for process in _children_below(home.root)}
        known = {worker.pid for paths in store.run_folders(home) if (worker := store.find_worker(paths)) and store.is_process_alive(paths)}
        assert alive == known
        assert len(store.list_runs(home)) == len(store.run_folders(home))

    return check


@pytest.fixture
def spans() -> Callable[[StudioHome], list[tuple[float, float]]]:
    """From when to when each run was worked on, read from the logs; a run that was begun twice fails here."""

    def read(home: StudioHome) -> list[tuple[float, float]]:
        logs = [paths.log.read_text().split() for paths in store.run_folders(home)]
        assert all(words.count("begin") == 1 for words in logs), logs
        return sorted((float(words[1]), float(words[5])) for words in logs)

    return read


def _children_below(folder: Path) -> list[psutil.Process]:
    """Live scripted children that work below the folder."""
    found = []
    for identity in find_processes("-m", MODULE):
        try:
            process = psutil.Process(identity.pid)
            if any(argument.startswith(str(folder)) for argument in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found
