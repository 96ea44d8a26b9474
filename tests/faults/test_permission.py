"""A home that may not be written to, met as any user would: also when the tests run as root, whom no permission stops."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from studio.core.paths import RunPaths, StudioHome

pytestmark = pytest.mark.faults

WITHOUT_PRIVILEGE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
"""Root then is a user like any other: it may do with a file what the file's mode allows."""


def studio(*arguments: str) -> subprocess.CompletedProcess[str]:
    drop = WITHOUT_PRIVILEGE if os.geteuid() == 0 else []
    assert not drop or shutil.which("setpriv"), "util-linux is missing"
    return subprocess.run([*drop, sys.executable, "-m", "studio", *arguments], capture_output=True, text=True, timeout=120, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("arguments", [("runs",), ("train", "quickstart", "--detach")])
def test_a_home_without_write_permission_is_named(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    home = tmp_path / "home"
    (home / "runs").mkdir(parents=True)
    home.chmod(0o555)
    done = studio("--home", str(home), *arguments)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"The studio's home {home} cannot be written to" in done.stderr and "--home" in done.stderr
    assert [path.name for path in home.iterdir()] == ["runs"] and not list((home / "runs").iterdir())


def test_a_home_that_became_read_only_keeps_its_runs(home: StudioHome, start: Callable[..., RunPaths], drain: Callable[..., None]) -> None:
    """Runs are shown; what would change one is refused by name, and nothing is half done."""
    paths = start("kept", steps=10)
    drain(home)
    before = contents(paths.folder)
    for folder in (home.runs, paths.folder):
        folder.chmod(0o555)
    listed = studio("--home", str(home.root), "show", paths.id)
    assert listed.returncode == 0 and "kept: finished" in listed.stdout
    for arguments in (("delete", paths.id), ("resume", paths.id, "--detach")):
        done = studio("--home", str(home.root), *arguments)
        assert done.returncode == 1 and "No permission" in done.stderr and "Traceback" not in done.stderr, (arguments, done.stderr)
    assert contents(paths.folder) == before and [run.name for run in home.runs.iterdir()] == [paths.id]
