from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime

import psutil
import pytest

from studio.core.errors import RunError, RunNotFound
from studio.core.files import append_line, write_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import Progress, RunNotes, RunResult, RunStatus, StepRecord
from studio.core.spec import RunSpec
from studio.jobs.notes import delete_run, write_notes
from studio.jobs.store import list_runs, read_created, read_log, read_run, read_status

RUN = "20260102-030405-mine"


@pytest.fixture
def paths(home: StudioHome, make_spec: Callable[..., RunSpec]) -> RunPaths:
    """A queued run."""
    paths = RunPaths(home.runs / RUN)
    write_json(paths.spec, make_spec("mine").to_json())
    return paths


def me() -> dict[str, object]:
    return {"pid": os.getpid(), "started": psutil.Process().create_time()}


def dead() -> dict[str, object]:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return {"pid": child.pid, "started": 1.0}


@pytest.mark.parametrize(
    ("process", "stop", "result", "status"),
    [
        (None, False, None, RunStatus.QUEUED),
        (me, False, None, RunStatus.RUNNING),
        (me, True, None, RunStatus.STOPPING),
        (dead, False, None, RunStatus.LOST),
        (dead, True, None, RunStatus.LOST),
        (me, False, RunStatus.FINISHED, RunStatus.FINISHED),
        (dead, True, RunStatus.STOPPED, RunStatus.STOPPED),
        (None, False, RunStatus.CANCELLED, RunStatus.CANCELLED),
        (dead, False, RunStatus.FAILED, RunStatus.FAILED),
    ],
)
def test_the_status_follows_from_files_and_process(
    paths: RunPaths, process: Callable[[], dict[str, object]] | None, stop: bool, result: RunStatus | None, status: RunStatus
) -> None:
    if process:
        write_json(paths.process, process())
    if stop:
        paths.stop.touch()
    if result:
        write_json(paths.result, RunResult(result).to_json())
    assert read_status(paths) is status


def test_a_half_written_result_is_no_result(paths: RunPaths) -> None:
    write_json(paths.process, me())
    paths.result.write_text('{"status": "fin')
    assert read_status(paths) is RunStatus.RUNNING


def test_a_process_file_that_says_nothing_and_no_process_is_a_lost_run(paths: RunPaths) -> None:
    paths.process.touch()
    assert read_status(paths) is RunStatus.LOST


def test_a_summary_has_the_figures_of_its_files(home: StudioHome, paths: RunPaths) -> None:
    append_line(paths.metrics, StepRecord(step=0, eval_loss=2.5).to_json())
    append_line(paths.metrics, StepRecord(step=1, loss=2.25, seconds=4.0).to_json())
    write_json(paths.process, me())
    write_json(paths.progress, vars(Progress("training", 1, 10)))
    write_notes(home, RUN, RunNotes(tags=["good"]))
    (summary,) = list_runs(home)
    assert (summary.id, summary.name, summary.status, summary.created) == (RUN, "mine", RunStatus.RUNNING, datetime(2026, 1, 2, 3, 4, 5))
    assert (summary.family, summary.model, summary.dataset) == ("lora", "starter", "starter")
    assert (summary.steps, summary.total_steps, summary.loss, summary.seconds) == (1, 10, 2.25, 4.0)
    assert (summary.tags, summary.sparkline) == (("good",), (2.25,))


def test_a_loss_after_training_is_one_measured_after_the_first_step(home: StudioHome, paths: RunPaths) -> None:
    """However many lines of training follow it, and whatever stands half-written at the curve's end."""

    def losses() -> tuple[float | None, float | None]:
        (run,) = list_runs(home)
        return run.eval_loss_before, run.eval_loss_after

    write_json(paths.process, me())
    assert losses() == (None, None)
    append_line(paths.metrics, StepRecord(step=0, eval_loss=2.5).to_json())
    append_line(paths.metrics, StepRecord(step=1, loss=2.25).to_json())
    assert losses() == (2.5, None)
    for step, loss in ((2, 2.0), (4, 1.5)):
        append_line(paths.metrics, StepRecord(step=step, eval_loss=loss).to_json())
    for step in range(5, 400):
        append_line(paths.metrics, StepRecord(step=step, loss=1.25, learning_rate=1e-3).to_json())
    assert losses() == (2.5, 1.5)
    with paths.metrics.open("a") as file:
        file.write('{"step": 400, "eval_loss": "x"}\n"eval_loss"\n{"step": 9, "note": "eval_loss"}\n{"step": 500, "eval_loss": 1.0')
    assert losses() == (2.5, 1.5)


def test_a_run_that_goes_on_is_starting_until_its_process_says_more(home: StudioHome, paths: RunPaths) -> None:
    """Its progress is that of before until then; of a run whose process is dead it is the last that is known."""
    write_json(paths.progress, vars(Progress("stopped", 4, 12)))
    os.utime(paths.progress, (time.time() - 60, time.time() - 60))
    write_json(paths.process, me())
    assert read_run(home, RUN).progress == Progress("")
    assert (list_runs(home)[0].steps, list_runs(home)[0].total_steps) == (0, 0)
    write_json(paths.progress, vars(Progress("loading the model")))
    assert read_run(home, RUN).progress == Progress("loading the model")
    write_json(paths.progress, vars(Progress("training", 4, 12)))
    os.utime(paths.progress, (time.time() - 60, time.time() - 60))
    write_json(paths.process, dead())
    assert (read_run(home, RUN).status, read_run(home, RUN).progress.step, list_runs(home)[0].steps) == (RunStatus.LOST, 4, 4)


def test_the_time_of_a_run_at_work_goes_on_between_its_lines(home: StudioHome, paths: RunPaths) -> None:
    append_line(paths.metrics, StepRecord(step=1, loss=2.0, seconds=30.0).to_json())
    write_json(paths.progress, vars(Progress("training", 1, 10, seconds=40.0)))
    os.utime(paths.progress, (time.time() - 60, time.time() - 60))
    write_json(paths.process, me())
    assert list_runs(home)[0].seconds == 30.0  # gone on with a minute later, and still loading
    os.utime(paths.process, (time.time() - 99, time.time() - 99))
    for seconds in (list_runs(home)[0].seconds, read_run(home, RUN).seconds):
        assert 100 <= seconds < 130
    os.utime(paths.progress, (time.time() + 999, time.time() + 999))  # a clock that was set back
    assert list_runs(home)[0].seconds == 40.0
    write_json(paths.progress, vars(Progress("loading the model")))  # resumed, and not training yet
    assert list_runs(home)[0].seconds == 30.0
    write_json(paths.progress, vars(Progress("training", 1, 10, seconds=40.0)))
    write_json(paths.process, {"pid": 1, "started": 0.0})
    assert (list_runs(home)[0].status, list_runs(home)[0].seconds) == (RunStatus.LOST, 30.0)
    write_json(paths.result, RunResult(RunStatus.STOPPED, seconds=41.5).to_json())
    assert list_runs(home)[0].seconds == read_run(home, RUN).seconds == 41.5


def test_a_finished_run_is_remembered_until_a_file_changes(home: StudioHome, paths: RunPaths) -> None:
    result = RunResult(RunStatus.FINISHED, steps=9, eval_loss_before=3.0, eval_loss_after=2.0, seconds=5.0, trainable_parameters=7)
    write_json(paths.result, result.to_json())
    (first,) = list_runs(home)
    assert (first.steps, first.eval_loss_before, first.eval_loss_after, first.trainable_parameters) == (9, 3.0, 2.0, 7)
    assert list_runs(home)[0] is first
    write_notes(home, RUN, RunNotes(name="another"))
    assert list_runs(home)[0].name == "another"
    paths.result.unlink()
    assert list_runs(home)[0].status is RunStatus.QUEUED


def test_one_broken_run_does_not_hide_the_others(home: StudioHome, paths: RunPaths) -> None:
    broken = RunPaths(home.runs / "20260102-030406-broken")
    broken.folder.mkdir()
    broken.spec.write_text("{")
    broken.notes.write_text("[1, 2]")
    broken.progress.write_text('{"step": "x"}')
    (home.runs / "20260102-030407-no-spec").mkdir()
    (home.runs / ".hidden").mkdir()
    assert [run.id for run in list_runs(home)] == [broken.id, RUN]
    write_json(broken.result, RunResult(RunStatus.FINISHED).to_json())
    assert [run.status for run in list_runs(home)] == [RunStatus.UNREADABLE, RunStatus.QUEUED]
    with pytest.raises(RunError, match="cannot be read"):
        read_run(home, broken.id)


def test_a_spec_of_another_version_is_a_named_error(home: StudioHome, paths: RunPaths) -> None:
    write_json(paths.spec, {"name": "x", "quantum": True})
    with pytest.raises(RunError, match="quantum is not a setting"):
        read_run(home, RUN)


def test_a_run_is_read_whole(home: StudioHome, paths: RunPaths) -> None:
    write_json(paths.plan, {"total_bytes": 5})
    paths.log.write_text("one\ntwo\n")
    record = read_run(home, RUN)
    assert (record.id, record.name, record.status, record.result, record.plan) == (RUN, "mine", RunStatus.QUEUED, None, {"total_bytes": 5})
    assert record.spec.training.max_steps == 10
    assert read_log(paths) == "one\ntwo\n"


@pytest.mark.parametrize("name", ["../x", "/etc", "", ".", "..", "a/b", "x" * 121, "a\0b", RUN + "\n", "20260102-030405-none"])
def test_a_name_that_is_no_run_is_refused(home: StudioHome, paths: RunPaths, name: str) -> None:
    with pytest.raises(RunNotFound):
        read_run(home, name)


def test_a_home_that_was_moved_keeps_its_runs(home: StudioHome, paths: RunPaths) -> None:
    write_json(paths.result, RunResult(RunStatus.FINISHED).to_json())
    moved = StudioHome(home.root.with_name("elsewhere"))
    shutil.move(home.root, moved.root)
    assert [(run.id, run.status) for run in list_runs(moved)] == [(RUN, RunStatus.FINISHED)]
    assert list_runs(home) == []


def test_a_renamed_run_was_made_when_its_spec_was_written(home: StudioHome, paths: RunPaths) -> None:
    renamed = RunPaths(paths.folder.rename(home.runs / "my-best-run"))
    os.utime(renamed.spec, (1_700_000_000, 1_700_000_000))
    assert read_created(renamed) == datetime.fromtimestamp(1_700_000_000)


BAD_RESULT = {"status": "finished", "steps": "many", "eval_loss_before": "x", "eval_loss_after": [1], "seconds": "NaN"}


@pytest.mark.parametrize(
    "result", [BAD_RESULT, {"steps": 3}, {"status": "glorious"}, {"status": []}, {"status": "finished", "seconds": None},
               {"status": "failed", "error": "x"}, {"status": "finished", "eval_loss_after": float("nan")}],
)  # fmt: skip
def test_a_result_of_wrong_values_is_unreadable_and_the_others_are_listed(
    home: StudioHome, paths: RunPaths, make_spec: Callable[..., RunSpec], result: dict[str, object]
) -> None:
    bad = RunPaths(home.runs / "20260102-030406-bad")
    write_json(bad.spec, make_spec("bad").to_json())
    bad.result.write_text(json.dumps(result))
    assert [(run.name, run.status) for run in list_runs(home)] == [("bad", RunStatus.UNREADABLE), ("mine", RunStatus.QUEUED)]
    assert read_run(home, bad.id).result is None
    delete_run(home, bad.id)
    assert [run.name for run in list_runs(home)] == ["mine"]


@pytest.mark.parametrize("step", ["1e400", "-1e400", "NaN", "[]", '"x"', "1" + "0" * 400, "-3"])
def test_progress_that_no_run_writes_counts_nothing(home: StudioHome, paths: RunPaths, step: str) -> None:
    paths.progress.write_text(f'{{"phase": "x", "step": {step}, "total_steps": {step}}}')
    (run,) = list_runs(home)
    assert (run.steps, run.total_steps) == (0, 0)
