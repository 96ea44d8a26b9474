"""Who works on a run: claimed once, a dead worker's claim is replaced, signals and old ends are understood."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from studio.core.errors import RunError
from studio.core.files import read_json, write_json
from studio.core.paths import RunPaths
from studio.train import process
from studio.train.process import Place, claim_run, count_threads, is_alive, stop_on_signal, trained_on_cpu


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path)


def describe(pid: int) -> dict[str, object]:
    return {"pid": pid, "started": psutil.Process(pid).create_time()}


def test_claim_names_this_process(paths: RunPaths) -> None:
    claim_run(paths)
    found = read_json(paths.process) or {}
    assert found["pid"] == os.getpid() and is_alive(found)
    claim_run(paths)  # its own claim is no obstacle


def test_a_live_worker_keeps_its_run(paths: RunPaths) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        write_json(paths.process, describe(other.pid))
        with pytest.raises(RunError, match=str(other.pid)):
            claim_run(paths)
        assert (read_json(paths.process) or {})["pid"] == other.pid
        other.communicate(b"\n")


def test_a_reused_pid_is_another_process(paths: RunPaths) -> None:
    write_json(paths.process, {"pid": os.getppid(), "started": psutil.Process(os.getppid()).create_time() - 500})
    claim_run(paths)
    assert (read_json(paths.process) or {})["pid"] == os.getpid()


@pytest.mark.faults
def test_a_zombie_does_not_hold_its_run(paths: RunPaths) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    try:
        claimed = describe(child.pid)
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.02)
        assert not is_alive(claimed)
        write_json(paths.process, claimed)
        claim_run(paths)
    finally:
        child.wait()


@pytest.mark.parametrize("torn", ["", "{", '{"pid": "x"}', '{"pid": 0}'])
def test_a_torn_claim_is_replaced(paths: RunPaths, torn: str) -> None:
    paths.process.write_text(torn, encoding="utf-8")
    claim_run(paths)
    assert (read_json(paths.process) or {})["pid"] == os.getpid()


def test_sigterm_asks_to_stop(paths: RunPaths) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        stop_on_signal(paths)
        os.kill(os.getpid(), signal.SIGTERM)
        assert paths.stop.exists()
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("claimed", [None, {"pid": os.getppid(), "started": 1.0}])
def test_a_stop_meant_for_a_dead_worker_is_history(paths: RunPaths, claimed: dict[str, object] | None) -> None:
    paths.stop.touch()
    if claimed:
        write_json(paths.process, claimed)
    claim_run(paths)
    assert not paths.stop.exists()
    paths.stop.touch()
    claim_run(paths)
    assert paths.stop.exists(), "asked of the worker that lives"


def test_a_stop_asked_of_a_live_worker_stays(paths: RunPaths) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        write_json(paths.process, describe(other.pid))
        paths.stop.touch()
        with pytest.raises(RunError):
            claim_run(paths)
        assert paths.stop.exists()
        other.communicate(b"\n")


def test_a_folder_that_went_or_was_made_anew_is_noticed(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    paths.folder.mkdir()
    place = Place(paths)
    place.check()
    (paths.folder / "file").touch()
    place.check()
    paths.folder.rename(tmp_path / "elsewhere")
    for _ in ("gone", "made anew"):
        with pytest.raises(RunError, match="moved or deleted"):
            place.check()
        paths.folder.mkdir(exist_ok=True)


@pytest.mark.parametrize("beside", [None, "home/other.txt", "home/runs/another/spec.json", "home/runs/run/spec.json"])
def test_only_what_was_written_in_the_moment_of_a_move_is_swept(tmp_path: Path, beside: str | None) -> None:
    paths = RunPaths(tmp_path / "home" / "runs" / "run")
    paths.folder.mkdir(parents=True)
    place = Place(paths)
    place.sweep()
    assert paths.folder.is_dir()
    (tmp_path / "home").rename(tmp_path / "moved")
    place.sweep()
    write_json(paths.checkpoints / "state.json", {})  # makes the old path anew
    if beside:
        write_json(tmp_path / beside, {})
    place.sweep()
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    if beside and "run/spec" in beside:
        assert left == ["home/runs/run/checkpoints/state.json", beside]
    else:
        assert left == ([beside] if beside else []) and (tmp_path / "home").exists() is bool(beside)
    assert (tmp_path / "moved" / "runs" / "run").is_dir()


def test_threads_follow_the_cores_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.psutil, "cpu_count", lambda logical: 4)
    monkeypatch.setattr(process.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for asked, expected in (("", 4), ("2", 2), ("16", 4), ("x", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert count_threads() == expected


def test_thread_count_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    with trained_on_cpu():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


MULTIPLY = """
from studio.train.process import keep_few_primitives
keep_few_primitives()
import psutil, torch
def multiply(rows):
    before = psutil.Process().memory_info().rss
    for count in rows:
        torch.zeros(count, 64, dtype=torch.bfloat16) @ weight
    return psutil.Process().memory_info().rss - before
torch.set_num_threads(1)
weight = torch.zeros(64, 64, dtype=torch.bfloat16)
multiply(range(64, 70))
print(multiply(range(100, 500)), multiply(range(500, 900)))
"""


def test_what_is_kept_of_16_bit_products_does_not_grow_with_every_new_shape() -> None:
    """400 shapes and 400 more: by itself oneDNN keeps 250 MB of each. A machine without 16-bit products keeps nothing of either."""
    unset = {name: value for name, value in os.environ.items() if not name.endswith("CACHE_CAPACITY")}
    first, more = subprocess.run([sys.executable, "-c", MULTIPLY], env=unset, capture_output=True, text=True, check=True).stdout.split()
    assert int(more) < int(first) / 4 + 10e6
