from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.core.errors import RunNotFound, SetupError
from studio.core.paths import RUN_ID, RunPaths, StudioHome

names = st.one_of(
    st.text(max_size=130),
    st.lists(st.sampled_from(["..", ".", "/", "\\", "a", "runs", "\0", "~", "%2e", " ", "\n", "-", "x" * 60])).map("".join),
)


@given(names)
def test_no_name_reaches_outside_the_runs(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.getbasetemp() / "contained"
    home = StudioHome.find(root)
    (root / "spec.json").write_text("{}")
    (root / "runs" / "spec.json").write_text("{}")
    with pytest.raises(RunNotFound):
        home.run(name)


@given(st.from_regex(RUN_ID, fullmatch=True))
def test_a_name_that_passes_is_one_plain_folder(name: str) -> None:
    runs = Path("/home/runs")
    assert (runs / name).parent == runs and ".." not in Path(name).parts and len(name) <= 120


def test_a_run_that_exists_is_found(tmp_path: Path) -> None:
    home = StudioHome.find(tmp_path)
    (home.runs / "mine").mkdir()
    with pytest.raises(RunNotFound):
        home.run("mine")
    (home.runs / "mine" / "spec.json").write_text("{}")
    assert home.run("mine") == RunPaths(home.runs / "mine")
    assert home.run("mine").id == "mine"


def test_every_file_of_a_run_lies_in_its_folder_under_a_name_of_its_own(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    files = [getattr(paths, name) for name, value in vars(RunPaths).items() if isinstance(value, property) and name != "id"]
    assert len({file.name for file in files}) == len(files) >= 13
    assert {file.parent for file in files} == {tmp_path}


def test_the_home_is_the_one_named_then_the_variable_then_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFT_STUDIO_HOME", str(tmp_path / "variable"))
    assert StudioHome.find(tmp_path / "named").root == tmp_path / "named"
    assert StudioHome.find().root == tmp_path / "variable"
    monkeypatch.delenv("PEFT_STUDIO_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    assert StudioHome.find().root == tmp_path / "user" / ".peft-studio"
    assert StudioHome.find("~/x").root == tmp_path / "user" / "x"


def test_a_home_that_cannot_be_made_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot be made") as caught:
        StudioHome.find(tmp_path / "file" / "home")
    assert "--home" in caught.value.hint


def test_a_home_that_cannot_be_written_is_a_named_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio.core.paths.os.access", lambda *_: False)
    with pytest.raises(SetupError, match="cannot be written"):
        StudioHome.find(tmp_path)
