"""A run whose data changed is refused before it is touched, from the page as from the command line."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from studio.__main__ import main
from studio.core.errors import RunError
from studio.core.files import write_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunResult, RunStatus
from studio.core.spec import DataSpec, RunSpec
from studio.data import unchanged
from studio.data.load import load_data
from studio.ui import runs_forms
from studio.ui.studio import Studio

Lines = list[dict[str, str]]
LINES: Lines = [{"prompt": f"Say {i}.", "completion": str(i)} for i in range(8)]


def write(path: Path, lines: Lines) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def home(studio_home: Path) -> StudioHome:
    return StudioHome.find(studio_home)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", LINES)


@pytest.fixture
def run(home: StudioHome, rows: Path) -> RunPaths:
    """A finished run on the rows as they are, with a checkpoint to go on from."""
    paths = RunPaths(home.runs / "20260101-000000-run")
    spec = RunSpec.parse({"data": {"source": str(rows)}, "training": {"max_steps": 4}})
    write_json(paths.environment, {"data_fingerprint": load_data(spec.data, home).fingerprint})
    write_json(paths.result, RunResult(RunStatus.FINISHED, steps=4).to_json())
    write_json(paths.checkpoints / "step-000004" / "state.json", {})
    write_json(paths.spec, spec.to_json())
    return paths


def require(home: StudioHome, run: RunPaths, rows: Path) -> None:
    unchanged.require_same_data(home, RunSpec.parse({"data": {"source": str(rows)}}).data, run)


def folder_of(run: RunPaths) -> dict[str, bytes]:
    return {str(path.relative_to(run.folder)): path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


def test_changed_data_are_refused_before_anything_is_touched(
    home: StudioHome, run: RunPaths, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(rows, LINES[:-1])
    before = folder_of(run)
    with pytest.raises(RunError, match="have changed since it began") as raised:
        runs_forms.go_on(Studio(home), run.id, runs_forms.LAST, 9)
    assert "Put the data back" in raised.value.hint
    for arguments in ((), ("--steps", "9")):
        assert main(["--home", str(home.root), "resume", run.id, "--detach", *arguments]) == 1
        assert "have changed since it began" in capsys.readouterr().err
    assert folder_of(run) == before


def test_a_file_put_in_place_of_the_first_is_found_though_it_is_older(home: StudioHome, run: RunPaths, rows: Path) -> None:
    other = write(rows.with_name("older.jsonl"), LINES[1:])
    os.utime(other, (1, 1))
    other.replace(rows)
    with pytest.raises(RunError, match="have changed"):
        require(home, run, rows)


def test_a_file_that_is_gone_is_named(home: StudioHome, run: RunPaths, rows: Path) -> None:
    rows.unlink()
    with pytest.raises(RunError, match="are gone"):
        require(home, run, rows)


def test_a_folder_that_is_gone_is_named(home: StudioHome, run: RunPaths, rows: Path) -> None:
    with pytest.raises(RunError, match="are gone"):
        require(home, run, rows.parent / "rows")


def test_a_dataset_of_the_hub_is_left_to_the_child(home: StudioHome, run: RunPaths) -> None:
    require(home, run, Path("somebody/some-rows"))


def test_the_same_rows_written_anew_are_the_same_data(home: StudioHome, run: RunPaths, rows: Path) -> None:
    rows.write_text("\n".join(["", *(json.dumps(line, indent=None, separators=(",", ":")) for line in LINES), "", ""]))
    require(home, run, rows)


def test_an_untouched_file_is_not_read(home: StudioHome, run: RunPaths, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(unchanged, "load_data")
    require(home, run, rows)


@pytest.mark.parametrize("environment", [{}, {"data_fingerprint": 7}, {"data_fingerprint": None}])
def test_a_run_that_does_not_say_what_it_was_trained_on_is_left_to_the_child(
    home: StudioHome, run: RunPaths, rows: Path, environment: dict[str, object]
) -> None:
    write_json(run.environment, environment)
    write(rows, LINES[:-1])
    require(home, run, rows)


@pytest.mark.parametrize("place", ["more.jsonl", "deep/more.jsonl"])
def test_a_file_taken_out_of_a_folder_is_found(home: StudioHome, run: RunPaths, rows: Path, place: str) -> None:
    folder = rows.parent / "folder"
    (folder / "deep").mkdir(parents=True)
    write(folder / "rows.jsonl", LINES[:4])
    write(folder / place, LINES[4:])
    write_json(run.environment, {"data_fingerprint": load_data(DataSpec(source=str(folder)), home).fingerprint})
    require(home, run, folder)
    os.utime(run.environment, ns=(time.time_ns(), time.time_ns()))
    time.sleep(0.05)  # directories carry the kernel's coarse clock
    (folder / place).unlink()
    with pytest.raises(RunError, match="have changed"):
        require(home, run, folder)
