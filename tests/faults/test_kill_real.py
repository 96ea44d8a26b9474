"""kill -9 of the real training child, of the studio that watches it, and of both, at seeded random moments of one run's life.

The studio is the command line's: `train` and `resume` start the run, keep the queue going and watch. One run is killed again and again
and goes on each time; its curve must come out as that of the same run left alone, number for number.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from safetensors.numpy import load_file

from studio.core.files import read_json, read_lines
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunStatus
from studio.jobs import runner, store
from studio.jobs.process import find_processes

pytestmark = pytest.mark.faults

SEED = int(os.environ.get("PEFT_STUDIO_FAULT_SEED", "11"))
STEPS = 48
KILLS = ("worker", "studio", "both", "worker", "studio", "both")
PATIENCE_S = 120


class Moment(NamedTuple):
    """Kill so long after the run has done so many steps."""

    kill: str
    step: int
    delay_s: float


def draw_moments(seed: int) -> list[Moment]:
    """One in each sixth of the run, so that all of its life is met; the delay falls into the step, its evaluation or its checkpoint."""
    dice, part = random.Random(seed), STEPS // len(KILLS)
    return [Moment(kill, part * i + dice.randrange(1, part - 1), dice.uniform(0, 0.06)) for i, kill in enumerate(KILLS)]


@pytest.fixture
def studio(home: StudioHome) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """A studio on the home: a command that starts or resumes a run and watches it."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "studio", "--home", str(home.root), *arguments]
        with (home.root / "studio-of-the-test.log").open("ab") as output:
            started.append(subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
    for identity in workers(home):
        identity.kill()


@pytest.fixture
def spec(home: StudioHome, tiny_llama: Path) -> Path:
    rows = home.root / "rows.jsonl"
    pairs = [{"prompt": f"Add {i} and {i + 1}.", "completion": f"def total():\n    return {i} + {i + 1}"} for i in range(60)]
    rows.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    path = home.root / "spec.json"
    path.write_text(json.dumps({
        "name": "killed", "model": {"id": str(tiny_llama)}, "data": {"source": str(rows)}, "method": {"family": "lora", "rank": 2},
        "training": {"batch_size": 4, "max_steps": STEPS, "max_length": 128, "eval_every": 5, "save_every": 1, "keep_checkpoints": STEPS},
    }))  # fmt: skip
    return path


def workers(home: StudioHome) -> list[psutil.Process]:
    """Live training children of this home."""
    found = []
    for identity in find_processes("-m", "studio.train"):
        try:
            process = psutil.Process(identity.pid)
            if any(argument.startswith(str(home.runs)) for argument in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(home: StudioHome, what: Callable[[], bool]) -> None:
    """Wait, and read every file meanwhile: whatever the moment, none is half written."""
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, (home.root / "studio-of-the-test.log").read_text()[-3000:]
        for paths in store.run_folders(home):
            assert store.read_run(home, paths.id).status in (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.FINISHED)
            assert_whole(paths)
        time.sleep(0.02)


def assert_whole(paths: RunPaths) -> None:
    for file in (paths.spec, paths.plan, paths.progress, paths.environment, paths.result, paths.resume):
        if file.exists():
            assert read_json(file) is not None, file
    lines, end = read_lines(paths.metrics)
    assert all(isinstance(line["step"], int) for line in lines)
    assert paths.metrics.stat().st_size >= end if paths.metrics.exists() else not lines


def run_of(home: StudioHome) -> RunPaths | None:
    return next(iter(store.run_folders(home)), None)


def step_of(home: StudioHome) -> int:
    """The last step that has its checkpoint; -1 before the run."""
    paths = run_of(home)
    found = runner.list_checkpoints(paths) if paths else []
    return int(found[-1].name[5:]) if found else 0 if paths else -1


def curve(paths: RunPaths) -> list[tuple[int, float | None, float | None]]:
    return [(line["step"], line.get("loss"), line.get("eval_loss")) for line in read_lines(paths.metrics)[0]]


def kill(moment: Moment, home: StudioHome, studio: subprocess.Popen[bytes]) -> None:
    """Kill what the moment names, and wait until it is gone."""
    victims = workers(home) if moment.kill in ("worker", "both") else []
    if moment.kill in ("studio", "both"):
        studio.kill()
        studio.wait()
    for victim in victims:
        victim.kill()
    deadline = time.monotonic() + PATIENCE_S
    while any(victim.is_running() and victim.status() != psutil.STATUS_ZOMBIE for victim in victims):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def check_after(moment: Moment, home: StudioHome, before: list[str]) -> RunStatus:
    """The run's status is right, no checkpoint of before is lost or torn, and the only worker alive is the run's own."""
    paths = run_of(home)
    assert paths
    status = store.read_status(paths)
    assert status in ((RunStatus.RUNNING, RunStatus.FINISHED) if moment.kill == "studio" else (RunStatus.LOST, RunStatus.FINISHED))
    assert_whole(paths)
    saved = [path.name for path in runner.list_checkpoints(paths)]
    assert saved[: len(before)] == before and saved == [f"step-{step:06d}" for step in range(1, len(saved) + 1)]
    for name in saved:
        assert read_json(paths.checkpoints / name / "trainer_state.json")
        for file in ("trainable", "optimizer", "adapter/adapter_model"):
            assert load_file(paths.checkpoints / name / f"{file}.safetensors"), (name, file)
    steps = [step for step, loss, _ in curve(paths) if loss is not None]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= len(saved)
    assert len(workers(home)) == (status is RunStatus.RUNNING)
    return status


def test_a_real_run_killed_again_and_again_ends_as_if_left_alone(
    home: StudioHome, studio: Callable[..., subprocess.Popen[bytes]], spec: Path, tmp_path: Path
) -> None:
    moments = draw_moments(SEED)
    print(f"seed {SEED}: {moments}")
    alone = studio("train", str(spec))
    wait_for(home, lambda: alone.poll() is not None)
    left_alone = run_of(home)
    assert left_alone and store.read_status(left_alone) is RunStatus.FINISHED
    left_alone.folder.rename(tmp_path / left_alone.id)

    watching = studio("train", str(spec))
    for moment in moments:
        wait_for(home, lambda moment=moment: step_of(home) >= moment.step)  # type: ignore[misc]
        time.sleep(moment.delay_s)
        paths = run_of(home)
        assert paths
        before = [path.name for path in runner.list_checkpoints(paths)]
        kill(moment, home, watching)
        if check_after(moment, home, before) is RunStatus.LOST:
            watching.kill()
            watching = studio("resume", paths.id)
            wait_for_resume(home, paths)
    paths = run_of(home)
    assert paths
    wait_for(home, lambda: store.read_status(paths).is_over and not workers(home))
    assert curve(paths) == curve(RunPaths(tmp_path / left_alone.id))
    assert [run.status for run in store.list_runs(home)] == [RunStatus.FINISHED]


def wait_for_resume(home: StudioHome, paths: RunPaths) -> None:
    """Until the command that resumes has asked for it: from then on the run is no longer lost."""
    deadline = time.monotonic() + PATIENCE_S
    while store.read_status(paths) is RunStatus.LOST:
        assert time.monotonic() < deadline, (home.root / "studio-of-the-test.log").read_text()[-3000:]
        time.sleep(0.01)


def test_killed_before_its_first_checkpoint_a_real_run_is_begun_anew(
    home: StudioHome, studio: Callable[..., subprocess.Popen[bytes]], spec: Path
) -> None:
    delay_s = random.Random(SEED).uniform(0, 2)
    print(f"seed {SEED}: {delay_s:.2f} s after its process has named itself")
    watching = studio("train", str(spec))
    wait_for(home, lambda: bool((paths := run_of(home)) and paths.process.exists()))
    time.sleep(delay_s)
    kill(Moment("both", 0, delay_s), home, watching)
    paths = run_of(home)
    assert paths and store.read_status(paths) is RunStatus.LOST and not workers(home)
    refused = studio("resume", paths.id)
    assert refused.wait(PATIENCE_S) == 1
    assert "saved no checkpoint" in (home.root / "studio-of-the-test.log").read_text()
    assert store.read_status(paths) is RunStatus.LOST
