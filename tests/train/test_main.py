"""`python -m studio.train` as a real child process: it ends with a result whatever happens."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from studio.core.errors import StudioError
from studio.core.files import read_json, read_lines
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunResult, RunStatus
from studio.core.spec import RunSpec
from studio.train import __main__ as entry

MakeSpec = Callable[..., RunSpec]
MakeRun = Callable[[RunSpec, str], RunPaths]
ROOT = Path(__file__).resolve().parents[2]


def start(paths: RunPaths) -> subprocess.Popen[bytes]:
    """The child as the runner starts it: its output in log.txt."""
    command = [sys.executable, "-m", "studio.train", str(paths.folder)]
    with paths.log.open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)


def result(paths: RunPaths) -> dict[str, Any]:
    found = read_json(paths.result)
    assert found is not None, paths.log.read_text()
    return found


def wait_for(condition: Callable[[], bool], paths: RunPaths, timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, paths.log.read_text()
        time.sleep(0.05)


class _Remembers:
    """As much of a recorder as the curve's beginning needs."""

    def __init__(self) -> None:
        self.seconds_before, self.peak_memory_bytes, self.eval_losses = 0.0, 0, {}


def trained_steps(paths: RunPaths) -> int:
    return max((line["step"] for line in read_lines(paths.metrics)[0]), default=0)


def test_a_child_trains_stops_and_resumes(make_spec: MakeSpec, make_run: MakeRun) -> None:
    """A child is stopped by SIGTERM; the run then goes on from its checkpoint to the end."""
    paths = make_run(make_spec(max_steps=2000, eval_every=1000), "run")
    child = start(paths)
    wait_for(lambda: trained_steps(paths) >= 2, paths)
    claimed = read_json(paths.process) or {}
    assert claimed["pid"] == child.pid and not paths.result.exists()
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(60) == 0, paths.log.read_text()
    stopped = result(paths)
    progress = read_json(paths.progress) or {}
    assert (progress["phase"], progress["step"], progress["total_steps"]) == ("stopped", stopped["steps"], 2000)
    assert 0 < progress["seconds"] <= stopped["seconds"]
    assert stopped["status"] == "stopped" and stopped["steps"] >= 2
    assert load_file(paths.adapter / "adapter_model.safetensors")
    log = paths.log.read_text()
    assert "loading the model" in log and "Traceback" not in log and "Warning" not in log

    steps = stopped["steps"]
    data = read_json(paths.spec) or {}
    data["training"]["max_steps"] = steps + 3
    paths.spec.write_text(json.dumps(data), encoding="utf-8")
    entry.claim_run(paths)
    finished = entry.work(paths, paths.checkpoints / f"step-{steps:06d}", None)
    assert finished.status.value == "finished" and finished.steps == steps + 3
    assert [line["step"] for line in read_lines(paths.metrics)[0] if "loss" in line] == list(range(1, steps + 4))


@pytest.mark.faults
def test_a_killed_child_leaves_whole_files(make_spec: MakeSpec, make_run: MakeRun) -> None:
    paths = make_run(make_spec(max_steps=2000, save_every=1), "run")
    child = start(paths)
    wait_for(lambda: trained_steps(paths) >= 3, paths)
    child.kill()
    child.wait()
    assert not paths.result.exists()
    newest = sorted(paths.checkpoints.glob("step-*"))[-1]
    paths.stop.touch()
    resumed = entry.work(paths, newest, None)
    assert resumed.status.value == "stopped" and resumed.steps == int(newest.name[5:]) + 1


@pytest.mark.faults
def test_killed_while_a_resume_cuts_its_curve_a_run_keeps_it(home: StudioHome) -> None:
    """Killed before any line of what writes it, the curve is the old one or the new one, never less."""
    from studio.train.run import continue_curve

    paths = RunPaths(home.runs / "run")
    paths.folder.mkdir()
    paths.resume.write_text("{}")
    lines = [{"step": step, "loss": 1 / step, "note": "ü"} for step in range(1, 9)]
    checkpoint = paths.checkpoints / "step-000005"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").touch()
    seen, moment = set(), 0
    while kill_before_line(moment, lambda: continue_curve(paths, _Remembers(), checkpoint), paths, lines):  # type: ignore[arg-type]
        left = read_lines(paths.metrics)[0]
        assert left in (lines, lines[:5]), moment
        seen.add(len(left))
        moment += 1
    assert seen == {8, 5} and moment > 40
    assert read_lines(paths.metrics)[0] == lines[:5]


def kill_before_line(number: int, action: Callable[[], None], paths: RunPaths, curve: list[dict[str, Any]]) -> bool:
    """Do `action` on the curve until it would execute its line `number`, counted over all the studio's code; whether it came so far."""

    class Killed(BaseException):
        pass

    count = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(str(ROOT / "studio")):
            return None
        if event == "line":
            if count == number:
                raise Killed
            count += 1
        return trace

    paths.metrics.write_text("".join(json.dumps(line) + "\n" for line in curve), encoding="utf-8")
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except Killed:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.faults
def test_a_run_whose_home_moves_ends_and_goes_on_there(make_spec: MakeSpec, make_run: MakeRun, home: StudioHome) -> None:
    """It writes nothing under the old path, says in its log why it ended, and is offered as lost with its last checkpoint."""
    from studio.jobs import runner, store

    paths = make_run(make_spec(max_steps=2000, save_every=1, log_every=1), "20260101-000000-run")
    child = start(paths)
    wait_for(lambda: trained_steps(paths) >= 3, paths)
    moved = StudioHome(home.root.with_name("moved"))
    home.root.rename(moved.root)
    there = moved.run(paths.id)
    assert child.wait(60) == 1
    assert not home.root.exists()
    assert "was moved or deleted while the run was at work" in there.log.read_text() and "Traceback" not in there.log.read_text()
    assert store.read_status(there) is RunStatus.LOST
    newest = runner.list_checkpoints(there)[-1]
    data = read_json(there.spec) or {}
    data["training"]["max_steps"] = steps = int(newest.name[5:]) + 2
    there.spec.write_text(json.dumps(data), encoding="utf-8")
    runner.resume_run(moved, paths.id)
    assert list(runner.wait_for_run(moved, paths.id, every_s=0.1))[-1] is RunStatus.FINISHED, there.log.read_text()
    assert [line["step"] for line in read_lines(there.metrics)[0] if "loss" in line] == list(range(1, steps + 1))


@pytest.mark.faults
@pytest.mark.parametrize("place", ["optimizer", "adapter_model"])
def test_a_full_disk_is_named(make_spec: MakeSpec, make_run: MakeRun, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import peft.peft_model

    from studio.train import checkpoint

    save = checkpoint.save_file

    def fill(tensors: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        if place in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(tensors, path, *args, **kwargs)

    monkeypatch.setattr(checkpoint, "save_file", fill)
    monkeypatch.setattr(peft.peft_model, "safe_save_file", fill)
    paths = make_run(make_spec(max_steps=2), "run")
    assert entry.end(paths, entry.work(paths, None, None)) == 1
    found = result(paths)
    assert found["status"] == "failed" and found["error"]["error"] == "DiskFull"
    assert not list(paths.checkpoints.iterdir()) and not paths.adapter.exists()


@pytest.mark.faults
def test_an_adapter_that_cannot_be_written_is_named(make_spec: MakeSpec, make_run: MakeRun) -> None:
    """A file stands where the adapter's folder should be, which stops root as well as anyone."""
    paths = make_run(make_spec(max_steps=1), "run")
    paths.adapter.write_text("in the way", encoding="utf-8")
    assert entry.end(paths, entry.work(paths, None, None)) == 1
    found = result(paths)
    assert found["status"] == "failed" and "aving the adapter failed" in found["error"]["message"]
    assert paths.adapter.read_text() == "in the way"
    assert list(paths.checkpoints.glob("step-*")), "what was saved before stays"


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("", "RunError", "spec.json"),
        ('{"training": {"learning_rate": 0}}', "SpecError", "learning_rate"),
        ('{"model": {"id": "/no/such/model"}}', "ModelNotFound", "/no/such/model"),
    ],
)
def test_a_bad_spec_is_a_named_failure(home: Any, text: str, kind: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    paths = RunPaths(home.runs / "bad")
    paths.folder.mkdir()
    paths.spec.write_text(text, encoding="utf-8")
    found = entry.work(paths, None, home.root)
    assert found.error is not None and found.error["error"] == kind and words in found.error["message"]
    assert entry.end(paths, found) == 1
    assert result(paths)["error"]["error"] == kind
    assert (read_json(paths.progress) or {})["phase"] == "failed"
    assert words in capsys.readouterr().out


def test_an_unexpected_error_is_written_down(
    make_spec: MakeSpec, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from studio.train import run as run_module

    monkeypatch.setattr(run_module, "train", lambda *_: {}["gone"])
    paths = make_run(make_spec(), "run")
    found = entry.work(paths, None, None)
    assert found.error is not None and "KeyError: 'gone'" in found.error["message"]
    assert "Traceback" in capsys.readouterr().err


def test_a_failure_is_written_down_whatever_its_curve_holds(make_spec: MakeSpec, make_run: MakeRun) -> None:
    paths = make_run(make_spec(), "run")
    paths.metrics.write_text('{"step": "x", "eval_loss": []}\n{"eval_loss": 2.5}\n{"step": [], "tokens": null, "seconds": "long"}\n')
    found = entry.failed(paths, StudioError("No."), time.monotonic())
    assert RunResult.from_json(found.to_json()).eval_loss_before == 2.5 and found.steps == 0


def test_a_failure_names_a_loss_after_training_only_where_one_was_measured(make_spec: MakeSpec, make_run: MakeRun) -> None:
    paths = make_run(make_spec(), "run")
    lines = ['{"step": 0, "eval_loss": 2.5}\n', '{"step": 3, "eval_loss": 1.5}\n']
    for curve, known in ((lines[:1], (2.5, None)), (lines, (2.5, 1.5)), (lines[1:], (None, 1.5)), ([], (None, None))):
        paths.metrics.write_text("".join(curve))
        found = entry.failed(paths, StudioError("No."), time.monotonic())
        assert (found.eval_loss_before, found.eval_loss_after) == known


def test_a_second_child_gives_up(make_spec: MakeSpec, make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    import psutil

    paths = make_run(make_spec(), "run")
    parent = {"pid": os.getppid(), "started": psutil.Process(os.getppid()).create_time()}
    paths.process.write_text(json.dumps(parent), encoding="utf-8")
    assert entry.main([str(paths.folder)]) == 1
    assert read_json(paths.process) == parent and not paths.result.exists()
    assert str(os.getppid()) in capsys.readouterr().err
