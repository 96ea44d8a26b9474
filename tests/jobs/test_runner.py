"""Start, stop, cancel, resume, extend: real processes of the scripted child."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from studio.core.errors import RunError, SpecError
from studio.core.files import read_json, read_lines, write_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunStatus
from studio.core.spec import PrefixSpec, RunSpec
from studio.jobs import queue, runner
from studio.jobs.store import find_worker, list_runs, read_result, read_status, run_folders

MODULE = "scripted_child"
MakeSpec = Callable[..., RunSpec]


def start(home: StudioHome, spec: RunSpec) -> RunPaths:
    return home.run(runner.start_run(home, spec, module=MODULE))


def end(home: StudioHome, paths: RunPaths) -> RunStatus:
    return list(runner.wait_for_run(home, paths.id, every_s=0.02, module=MODULE))[-1]


def wait_for_step(paths: RunPaths, step: int) -> None:
    deadline = time.monotonic() + 20
    while (read_json(paths.progress) or {}).get("step", 0) < step:
        assert time.monotonic() < deadline, "the run did not get there"
        queue.advance_queue(StudioHome(paths.folder.parents[1]), MODULE)
        time.sleep(0.01)


def steps_of(paths: RunPaths) -> list[int]:
    return [line["step"] for line in read_lines(paths.metrics)[0]]


def test_a_run_goes_from_spec_to_result(home: StudioHome, make_spec: MakeSpec) -> None:
    spec = make_spec("First try", steps=7)
    run_id = runner.start_run(home, spec, plan={"total_bytes": 1}, module=MODULE)
    paths = home.run(run_id)
    assert run_id.endswith("-first-try")
    assert read_json(paths.plan) == {"total_bytes": 1}
    assert RunSpec.parse(read_json(paths.spec) or {}) == spec
    assert end(home, paths) is RunStatus.FINISHED
    assert steps_of(paths) == [1, 2, 3, 4, 5, 6, 7]


def test_nothing_is_made_of_a_spec_with_problems(home: StudioHome) -> None:
    bad = RunSpec.model_validate({"method": PrefixSpec().model_dump(), "training": {"gradient_checkpointing": True}})
    with pytest.raises(SpecError, match="gradient checkpointing"):
        runner.start_run(home, bad, module=MODULE)
    assert list(home.runs.iterdir()) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b\\c", "x" * 100, "…", "Ünï", "-rf", "", " ", ".hidden", "a\0b"])
def test_any_name_makes_a_folder_inside_the_home(home: StudioHome, make_spec: MakeSpec, name: str) -> None:
    paths = start(home, make_spec(name, steps=1))
    assert paths.folder.parent == home.runs and len(paths.id) < 100
    assert end(home, paths) is RunStatus.FINISHED


def test_a_name_of_300_characters_is_refused(make_spec: MakeSpec) -> None:
    with pytest.raises(SpecError, match="name"):
        make_spec("x" * 300)


def test_two_runs_of_one_name_are_two_runs(home: StudioHome, make_spec: MakeSpec) -> None:
    first, second = (start(home, make_spec("same", steps=1)) for _ in range(2))
    assert first.id != second.id
    assert end(home, first) is end(home, second) is RunStatus.FINISHED


def test_stop_saves_the_adapter(home: StudioHome, make_spec: MakeSpec) -> None:
    paths = start(home, make_spec(steps=5000))
    wait_for_step(paths, 3)
    assert runner.stop_run(home, paths.id) in (RunStatus.STOPPING, RunStatus.STOPPED)
    assert end(home, paths) is RunStatus.STOPPED
    assert (paths.adapter / "adapter_config.json").is_file()
    with pytest.raises(RunError, match="stopped, so it cannot be stopped"):
        runner.stop_run(home, paths.id)


def test_a_run_that_does_not_hear_is_ended_after_its_grace(home: StudioHome, make_spec: MakeSpec) -> None:
    paths = start(home, make_spec(steps=5000, script="0.002 deaf"))
    wait_for_step(paths, 6)
    runner.stop_run(home, paths.id, grace_s=0.1)
    assert end(home, paths) is RunStatus.FAILED
    result = read_result(paths)
    assert result and result.error and "did not save and end in time" in result.error["message"]
    assert [path.name for path in runner.list_checkpoints(paths)][:1] == ["step-000005"]


def test_cancel_ends_at_once_and_keeps_nothing(home: StudioHome, make_spec: MakeSpec) -> None:
    paths = start(home, make_spec(steps=5000))
    wait_for_step(paths, 6)
    worker = find_worker(paths)
    assert runner.cancel_run(home, paths.id) is RunStatus.CANCELLED
    assert worker and not worker.is_alive()
    assert not paths.adapter.exists() and not paths.checkpoints.exists()
    assert steps_of(paths)[:3] == [1, 2, 3]
    with pytest.raises(RunError, match="cancelled, so it cannot be cancelled"):
        runner.cancel_run(home, paths.id)


def test_a_cancelled_waiting_run_never_starts(home: StudioHome, make_spec: MakeSpec) -> None:
    first, second = start(home, make_spec("first", steps=5000)), start(home, make_spec("second"))
    assert read_status(second) is RunStatus.QUEUED
    assert runner.stop_run(home, second.id) is RunStatus.CANCELLED
    runner.cancel_run(home, first.id)
    assert queue.advance_queue(home, MODULE) is None
    assert not second.process.exists() and not second.log.exists()


def test_a_killed_run_is_lost_and_resumes_from_its_last_checkpoint(home: StudioHome, make_spec: MakeSpec) -> None:
    paths = start(home, make_spec(steps=60))
    wait_for_step(paths, 12)
    worker = find_worker(paths)
    assert worker
    os.kill(worker.pid, 9)
    while worker.is_alive():
        time.sleep(0.01)
    assert read_status(paths) is RunStatus.LOST and not paths.result.exists()
    done = len(steps_of(paths))
    last = runner.list_checkpoints(paths)[-1]
    runner.resume_run(home, paths.id, module=MODULE)
    assert end(home, paths) is RunStatus.FINISHED
    assert steps_of(paths)[done:] == list(range(int(last.name.split("-")[1]) + 1, 61))


@pytest.mark.parametrize("checkpoint", [5, "5", "step-000005"])
def test_any_checkpoint_can_be_chosen(home: StudioHome, make_spec: MakeSpec, checkpoint: str | int) -> None:
    paths = start(home, make_spec(steps=10))
    end(home, paths)
    runner.resume_run(home, paths.id, checkpoint, module=MODULE)
    assert end(home, paths) is RunStatus.FINISHED
    assert steps_of(paths) == [*range(1, 11), *range(6, 11)]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model": {"id": "other"}}, "base model"),
        ({"method": {"rank": 4}}, "method"),
        ({"method": {"family": "prefix"}}, "method|not a setting"),
        ({"data": {"source": "other"}}, "data"),
        ({"training": {"batch_size": 0}}, "batch_size"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_a_resume_that_changes_the_run_is_refused(home: StudioHome, make_spec: MakeSpec, changes: dict[str, object], what: str) -> None:
    paths = start(home, make_spec())
    end(home, paths)
    before = {path.name: path.read_bytes() for path in paths.folder.iterdir() if path.is_file()}
    with pytest.raises((RunError, SpecError), match=what):
        runner.resume_run(home, paths.id, changes=changes, module=MODULE)
    assert {path.name: path.read_bytes() for path in paths.folder.iterdir() if path.is_file()} == before


def test_only_a_run_that_is_over_resumes_and_only_from_what_it_saved(home: StudioHome, make_spec: MakeSpec, tmp_path: Path) -> None:
    paths = start(home, make_spec(steps=3))
    end(home, paths)
    with pytest.raises(RunError, match="saved no checkpoint"):
        runner.resume_run(home, paths.id, module=MODULE)
    (tmp_path / "step-000009").mkdir()
    write_json(tmp_path / "step-000009" / "state.json", {})
    paths.checkpoints.mkdir()
    (paths.checkpoints / "step-000009").symlink_to(tmp_path / "step-000009")
    (paths.checkpoints / "step-000008").mkdir()  # half of one
    for name in ("../../x", "step-000009", "step-000008", None):
        with pytest.raises(RunError, match="checkpoint"):
            runner.resume_run(home, paths.id, name, module=MODULE)
    busy = start(home, make_spec(steps=5000))
    with pytest.raises(RunError, match="only a run that is over"):
        runner.resume_run(home, busy.id, module=MODULE)


@pytest.mark.parametrize("name", ["optimizer.pt", "adapter/adapter_model.bin"])
def test_a_strangers_pickle_is_refused_and_nothing_changes(home: StudioHome, make_spec: MakeSpec, name: str) -> None:
    paths = start(home, make_spec(steps=10))
    end(home, paths)
    bomb = paths.checkpoints / "step-000010" / name
    bomb.parent.mkdir(exist_ok=True)
    bomb.write_bytes(b"cos\nsystem\n(S'touch exploded'\ntR.")
    before = {path: path.read_bytes() for path in paths.folder.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=rf"step-000010 holds pickled files \({bomb.name}\)"):
        runner.resume_run(home, paths.id, changes={"training": {"max_steps": 12}}, module=MODULE)
    assert {path: path.read_bytes() for path in paths.folder.rglob("*") if path.is_file()} == before
    assert read_status(paths) is RunStatus.FINISHED
    runner.resume_run(home, paths.id, "step-000005", changes={"training": {"max_steps": 12}}, module=MODULE)
    assert end(home, paths) is RunStatus.FINISHED


def test_a_finished_run_is_extended(home: StudioHome, make_spec: MakeSpec) -> None:
    paths = start(home, make_spec(steps=10))
    end(home, paths)
    with pytest.raises(RunError, match="10 steps already"):
        runner.extend_run(home, paths.id, max_steps=10, module=MODULE)
    with pytest.raises(RunError, match="how far"):
        runner.extend_run(home, paths.id, module=MODULE)
    runner.extend_run(home, paths.id, max_steps=14, module=MODULE)
    assert end(home, paths) is RunStatus.FINISHED
    assert steps_of(paths) == list(range(1, 15))


def test_a_cancelled_resume_keeps_what_was_saved_before(home: StudioHome, make_spec: MakeSpec) -> None:
    paths = start(home, make_spec(steps=10))
    end(home, paths)
    runner.extend_run(home, paths.id, max_steps=5000, module=MODULE)
    wait_for_step(paths, 12)
    assert runner.cancel_run(home, paths.id) is RunStatus.CANCELLED
    assert (paths.adapter / "adapter_config.json").is_file()
    assert "step-000010" in [path.name for path in runner.list_checkpoints(paths)]


def test_a_resume_withdrawn_while_it_waits_leaves_the_run_as_it_was(home: StudioHome, make_spec: MakeSpec) -> None:
    paths = start(home, make_spec("first", steps=10))
    end(home, paths)
    before = (paths.spec.read_text(), paths.result.read_text(), read_json(paths.process))
    busy = start(home, make_spec("busy", steps=5000))
    runner.extend_run(home, paths.id, max_steps=20, module=MODULE)
    assert read_status(paths) is RunStatus.QUEUED
    assert runner.cancel_run(home, paths.id) is RunStatus.FINISHED
    assert (paths.spec.read_text(), paths.result.read_text(), read_json(paths.process)) == before
    runner.cancel_run(home, busy.id)


def test_a_child_that_never_began_is_a_failed_run_with_its_log(home: StudioHome, make_spec: MakeSpec) -> None:
    run_id = runner.start_run(home, make_spec(), module="no_such_module_anywhere")
    result = read_result(home.run(run_id))
    assert result and result.status is RunStatus.FAILED and result.error
    assert "ended before it began" in result.error["message"]
    assert "no_such_module_anywhere" in result.error["hint"]


def test_a_home_that_cannot_be_written_is_a_named_error(home: StudioHome, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_args: object, **_named: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(Exception, match="No permission: making the run's folder"):
        runner.start_run(home, make_spec(), module=MODULE)
    assert run_folders(home) == [] and list_runs(home) == []
