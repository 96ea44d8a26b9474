"""The runner with the real training child, on a tiny random Llama: start to finish, stop, kill and resume, a failure with advice."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from studio.core.files import read_json, read_lines
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunStatus
from studio.core.spec import RunSpec
from studio.jobs import runner
from studio.jobs.store import find_worker, list_runs, read_log, read_result, read_status


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    pairs = [{"prompt": f"Add {i} and {i + 1}.", "completion": f"def total():\n    return {i} + {i + 1}"} for i in range(60)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


def spec_of(model: Path, rows: Path, **training: object) -> RunSpec:
    return RunSpec.parse({
        "name": "tiny", "model": {"id": str(model)}, "data": {"source": str(rows)}, "method": {"family": "lora", "rank": 2},
        "training": {"batch_size": 4, "max_steps": 6, "max_length": 128, "eval_every": 3, "save_every": 2, **training},
    })  # fmt: skip


def end(home: StudioHome, paths: RunPaths) -> RunStatus:
    return list(runner.wait_for_run(home, paths.id, every_s=0.1))[-1]


def wait_for_step(paths: RunPaths, step: int) -> None:
    deadline = time.monotonic() + 120
    while (read_json(paths.progress) or {}).get("step", 0) < step:
        assert time.monotonic() < deadline and not read_status(paths).is_over, read_log(paths)
        time.sleep(0.02)


def test_a_real_run_trains_and_its_summary_has_its_figures(home: StudioHome, tiny_llama: Path, rows: Path) -> None:
    paths = home.run(runner.start_run(home, spec_of(tiny_llama, rows)))
    assert end(home, paths) is RunStatus.FINISHED, read_log(paths)
    (run,) = list_runs(home)
    assert (run.steps, run.total_steps, len(run.sparkline), run.family) == (6, 6, 6, "lora")
    assert run.eval_loss_before and run.eval_loss_after and run.eval_loss_after < run.eval_loss_before
    assert (paths.adapter / "adapter_model.safetensors").is_file()
    assert [path.name for path in runner.list_checkpoints(paths)][-1:] == ["step-000006"]


def test_a_killed_real_run_resumes_and_a_stopped_one_keeps_its_adapter(home: StudioHome, tiny_llama: Path, rows: Path) -> None:
    paths = home.run(runner.start_run(home, spec_of(tiny_llama, rows, max_steps=400)))
    wait_for_step(paths, 5)
    worker = find_worker(paths)
    assert worker
    os.kill(worker.pid, 9)
    while worker.is_alive():
        time.sleep(0.01)
    assert read_status(paths) is RunStatus.LOST
    before = runner.list_checkpoints(paths)[-1]
    first = int(before.name.split("-")[1])
    runner.resume_run(home, paths.id)
    wait_for_step(paths, first + 3)
    runner.stop_run(home, paths.id)
    assert end(home, paths) is RunStatus.STOPPED, read_log(paths)
    steps = [line["step"] for line in read_lines(paths.metrics)[0] if "loss" in line]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= first + 3
    assert (paths.adapter / "adapter_model.safetensors").is_file()


def test_a_real_run_that_cannot_be_fails_with_advice(home: StudioHome, tiny_llama: Path, tmp_path: Path) -> None:
    paths = home.run(runner.start_run(home, spec_of(tiny_llama, tmp_path / "none.jsonl")))
    assert end(home, paths) is RunStatus.FAILED
    result = read_result(paths)
    assert result and result.error and "none.jsonl" in result.error["message"] and result.error["hint"]
