from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from studio.core.errors import RunError, RunNotFound
from studio.core.files import folder_bytes, write_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunNotes, RunResult, RunStatus
from studio.core.spec import RunSpec
from studio.jobs.notes import delete_run, empty_trash, list_trash, measure_trash, restore_run, write_notes
from studio.jobs.store import list_runs, read_notes

RUN = "20260102-030405-mine"


@pytest.fixture
def paths(home: StudioHome, make_spec: Callable[..., RunSpec]) -> RunPaths:
    """A finished run."""
    paths = RunPaths(home.runs / RUN)
    write_json(paths.spec, make_spec().to_json())
    write_json(paths.result, RunResult(RunStatus.FINISHED).to_json())
    return paths


def test_notes_come_back_as_they_were_written(home: StudioHome, paths: RunPaths) -> None:
    kept = write_notes(home, RUN, RunNotes(" best one ", ["a", " b ", "a", ""], "Zeile 1\nLine 2 ✓\n"))
    assert kept == RunNotes("best one", ["a", "b"], "Zeile 1\nLine 2 ✓")
    assert read_notes(paths) == kept


def test_a_name_of_300_characters_is_refused_and_nothing_changes(home: StudioHome, paths: RunPaths) -> None:
    write_notes(home, RUN, RunNotes("short"))
    with pytest.raises(RunError, match="at most 100"):
        write_notes(home, RUN, RunNotes("x" * 300))
    assert read_notes(paths).name == "short"


def test_a_deleted_run_can_be_taken_back(home: StudioHome, paths: RunPaths) -> None:
    delete_run(home, RUN)
    assert list_runs(home) == [] and list_trash(home) == [RUN]
    restore_run(home, RUN)
    assert [run.id for run in list_runs(home)] == [RUN] and list_trash(home) == []
    delete_run(home, RUN)
    size = folder_bytes(home.trash / RUN)
    assert measure_trash(home) == empty_trash(home) == (1, size) and size > 0
    assert measure_trash(home) == empty_trash(home) == (0, 0)
    with pytest.raises(RunNotFound):
        restore_run(home, RUN)


def test_only_runs_are_emptied_out(home: StudioHome, paths: RunPaths, tmp_path: Path) -> None:
    """What is in the trash's folder and no run, or a link out of it, stays."""
    delete_run(home, RUN)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("mine")
    (home.trash / RUN / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    (home.trash / ".kept").mkdir()
    assert empty_trash(home).runs == 1
    assert (tmp_path / "outside" / "file").read_text() == "mine" and (home.trash / ".kept").is_dir()


def test_a_run_that_waits_is_not_deleted(home: StudioHome, paths: RunPaths) -> None:
    paths.result.unlink()
    with pytest.raises(RunError, match="queued"):
        delete_run(home, RUN)
    assert paths.spec.is_file()


def test_nothing_is_overwritten_on_the_way_back(home: StudioHome, paths: RunPaths) -> None:
    delete_run(home, RUN)
    write_json(paths.spec, {"name": "another"})
    with pytest.raises(RunError, match="nothing is overwritten"):
        restore_run(home, RUN)
    assert list_trash(home) == [RUN]


@pytest.mark.parametrize("name", ["../runs", "/etc", "..", ""])
def test_hostile_names_stay_outside(home: StudioHome, paths: RunPaths, name: str) -> None:
    for action in (delete_run, restore_run):
        with pytest.raises(RunNotFound):
            action(home, name)
    assert Path("/etc").is_dir() and paths.spec.is_file()
