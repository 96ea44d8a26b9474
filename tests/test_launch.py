"""launch.py from the outside (a copy of it in an empty clone, in real processes) and, where set-up would take minutes, from the inside.

The clone's `studio` package here only tells what it was started with: launch.py knows nothing else of the studio.
"""

from __future__ import annotations

import ast
import errno
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

TELLTALE = """
import json, os, sys
names = ("IN_VENV", "PEFT_STUDIO_HOME", "PYTHONPATH", "HF_HUB_DISABLE_TELEMETRY", "GRADIO_ANALYTICS_ENABLED")
told = {"arguments": sys.argv[1:], "pid": os.getpid(), "python": sys.executable, "env": {n: os.environ.get(n) for n in names}}
print(json.dumps(told), flush=True)
sys.exit(int(os.environ.get("SETUP_CODE" if "setup" in sys.argv else "STUDIO_CODE", "0")))
"""


def load_launch(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("launch", root / "launch.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with a studio that tells what it was started with."""
    root = tmp_path / "clone"
    (root / "assets").mkdir(parents=True)
    (root / "studio").mkdir()
    for name in ("launch.py", "pyproject.toml", "assets/constraints.txt"):
        shutil.copy(ROOT / name, root / name)
    (root / "studio" / "__init__.py").touch()
    (root / "studio" / "__main__.py").write_text(TELLTALE, encoding="utf-8")
    return root


def start(clone: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(clone / "launch.py"), *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in ("PEFT_STUDIO_HOME", "PYTHONPATH")}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=clone.parent, env={**environment, **variables}
    )


@pytest.fixture
def launch(clone: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The clone's launch.py as a module, on a Python that has no packages."""
    module = load_launch(clone)
    monkeypatch.setattr(module, "missing_packages", lambda needed: needed)
    return module


class Installer:
    """Stands for venv and pip, which take minutes: notes what was asked, and makes an environment that runs pip."""

    def __init__(self, launch: ModuleType) -> None:
        self.asked: list[str] = []
        self.fail_at: str | None = None
        self.failure: BaseException = KeyboardInterrupt()
        self.launch = launch

    def __call__(self, command: list[str]) -> None:
        name = command[2]
        self.asked.append("pip test" if command[-1].endswith("[test]") else name)
        if self.fail_at == name:
            raise self.failure
        if name == "venv":
            python = Path(self.launch.venv_python())
            python.parent.mkdir(parents=True)
            python.write_text(f'#!/bin/sh\nIN_VENV=1 exec "{sys.executable}" "$@"\n', encoding="utf-8")
            python.chmod(0o755)
            (python.parents[1] / "pyvenv.cfg").write_text(f"home = {sys.prefix}", encoding="utf-8")


@pytest.fixture
def installer(launch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Installer:
    stand_in = Installer(launch)
    monkeypatch.setattr(launch, "run_installer", stand_in)
    monkeypatch.setattr(launch, "hand_over", lambda command, environment: 0)
    monkeypatch.setattr(launch, "set_up_starter", lambda python, environment: 0)
    return stand_in


# What it starts


def test_an_interpreter_with_every_package_is_used_as_it_is(clone: Path) -> None:
    process = start(clone, "--port", "8123", "--no-browser", "--home", "here")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, not (clone / ".venv").exists()) == (0, True), err
    told = json.loads(out)
    assert told["arguments"] == ["--port", "8123", "--no-browser"]
    assert told["python"] == sys.executable
    assert told["env"] == {
        "IN_VENV": None,
        "PEFT_STUDIO_HOME": str(clone.parent / "here"),
        "PYTHONPATH": str(clone),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
    }


def test_the_studio_takes_the_place_of_the_launcher_so_that_signals_reach_it(clone: Path) -> None:
    process = start(clone, STUDIO_CODE="3")
    out, _ = process.communicate(timeout=60)
    assert json.loads(out)["pid"] == process.pid
    assert process.returncode == 3


def test_the_starter_is_set_up_first_and_standard_output_is_left_to_the_command(clone: Path) -> None:
    out, err = start(clone, "demo", "--json").communicate(timeout=60)
    assert json.loads(out)["arguments"] == ["demo", "--json"]
    assert json.loads(err)["arguments"] == ["setup"]


def test_serving_goes_on_without_a_starter_model_but_the_demo_does_not(clone: Path) -> None:
    serving = start(clone, SETUP_CODE="5")
    out, err = serving.communicate(timeout=60)
    assert serving.returncode == 0
    assert json.loads(out)["arguments"] == []
    assert err.splitlines()[-1].startswith("The starter model or its data is missing")
    demo = start(clone, "demo", SETUP_CODE="5")
    assert (demo.communicate(timeout=60)[0], demo.returncode) == ("", 5)


def test_a_finished_environment_is_preferred_and_needs_no_second_set_up(clone: Path, launch: ModuleType, installer: Installer) -> None:
    assert launch.main([]) == 0
    assert installer.asked == ["venv", "pip"]
    out, err = start(clone).communicate(timeout=60)
    assert json.loads(out)["env"]["IN_VENV"] == "1"
    assert "Installing" not in err


def test_help_needs_no_set_up(clone: Path) -> None:
    out, err = start(clone, "--help").communicate(timeout=60)
    assert "python3 launch.py demo [--json]" in out and "3 GB" in out
    assert not re.search("standard library|parses|pyproject|constraints", out)  # notes for whoever changes the file
    assert (err, (clone / ".venv").exists()) == ("", False)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["serv"], 1, "There is no command `serv`"),
        (["--prot", "80"], 2, "unrecognized arguments: --prot"),
        (["--port", "http"], 2, "invalid int value"),
        (["demo", "--port", "80"], 2, "unrecognized arguments: --port"),
    ],
)
def test_a_typing_error_ends_before_any_set_up(clone: Path, arguments: list[str], code: int, says: str) -> None:
    process = start(clone, *arguments)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert says in err


# Set-up


def test_set_up_runs_once_and_again_when_what_is_wanted_changes(clone: Path, launch: ModuleType, installer: Installer) -> None:
    def asked_by(*arguments: str) -> list[str]:
        installer.asked.clear()
        assert launch.main(list(arguments)) == 0
        return list(installer.asked)

    assert asked_by() == ["venv", "pip"]
    assert asked_by() == []
    assert asked_by("demo") == []
    with (clone / "assets" / "constraints.txt").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert asked_by() == ["pip"]
    assert asked_by() == []


def test_the_test_extras_are_added_and_kept(clone: Path, launch: ModuleType, installer: Installer, monkeypatch: pytest.MonkeyPatch) -> None:
    launch.main([])
    installer.asked.clear()
    monkeypatch.setattr(launch.subprocess, "call", lambda *_, **__: 0)
    assert launch.main(["test"]) == 0
    assert installer.asked == ["pip test"]
    assert launch.main(["test"]) == launch.main([]) == 0
    assert installer.asked == ["pip test"]
    with (clone / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    launch.main([])
    assert installer.asked == ["pip test", "pip test"]


@pytest.mark.parametrize("step", ["venv", "pip"])
def test_an_interrupted_set_up_is_taken_up_again(
    launch: ModuleType, installer: Installer, step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    installer.fail_at = step
    assert launch.main([]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "Interrupted. Start again to go on from here."
    installer.fail_at = None
    installer.asked.clear()
    assert launch.main([]) == 0
    assert installer.asked == {"venv": ["venv", "pip"], "pip": ["pip"]}[step]


@pytest.mark.faults
def test_a_half_made_environment_is_made_anew(launch: ModuleType, clone: Path) -> None:
    python = Path(launch.venv_python())
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    python.chmod(0o755)
    (clone / ".venv" / "left-over").touch()
    launch.make_venv()
    assert launch.runs_pip(str(python))
    assert not (clone / ".venv" / "left-over").exists()


# What goes wrong is one sentence


def said_by(launch: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert launch.main(list(arguments)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith(".")
    return last


def old_pythons() -> list[str]:
    """Interpreters older than 3.10 that this machine happens to have."""
    names = [shutil.which(f"python{version}") for version in ("2.7", "3.6", "3.7", "3.8", "3.9")]
    kept = (Path.home() / ".pyenv" / "versions").glob("[23].*/bin/python")
    found = [*[name for name in names if name], *map(str, kept)]
    check = "import sys; sys.exit(sys.version_info[:2] >= (3, 10))"
    return [name for name in found if subprocess.run([name, "-c", check], capture_output=True, check=False).returncode == 0]


def test_an_old_python_is_told_what_is_needed(clone: Path) -> None:
    source = (clone / "launch.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 7))
    assert source.isascii()
    for python in old_pythons():
        done = subprocess.run([python, str(clone / "launch.py")], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("PEFT Studio needs Python 3.10 or newer, and this is Python "), (python, done.stderr)
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("newer", ["python3.12", None])
def test_an_old_python_names_a_newer_one_of_this_machine(
    launch: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], newer: str | None
) -> None:
    monkeypatch.setattr(launch, "sys", SimpleNamespace(version_info=(3, 8, 1), version="3.8.1 (old)", stderr=sys.stderr))
    monkeypatch.setattr(launch, "succeeds", lambda command: command[0] == newer)
    advice = "start with `python3.12 launch.py`" if newer else "install one from https://www.python.org/downloads/"
    said = said_by(launch, capsys)
    assert said.startswith("PEFT Studio needs Python 3.10 or newer, and this is Python 3.8.1: ")
    assert advice in said


@pytest.mark.parametrize("absent", ["venv", "ensurepip"])
def test_a_missing_venv_module(
    launch: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], absent: str
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == absent else find_spec(name, *rest))
    assert "sudo apt install python3-venv" in said_by(launch, capsys)


def test_too_little_space_is_said_before_anything_is_downloaded(
    launch: ModuleType, installer: Installer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**8))
    assert said_by(launch, capsys).startswith("The disk is full: free at least 2 GB")
    assert installer.asked == []


@pytest.mark.faults
@pytest.mark.parametrize(
    ("code", "says"), [(errno.ENOSPC, "The disk is full"), (errno.EACCES, "No permission"), (errno.EIO, "Set-up failed")]
)
def test_an_error_of_the_operating_system_in_the_middle(
    launch: ModuleType, installer: Installer, capsys: pytest.CaptureFixture[str], code: int, says: str
) -> None:
    installer.fail_at, installer.failure = "pip", OSError(code, os.strerror(code), "some/file")
    assert said_by(launch, capsys).startswith(says)
    assert launch.read_stamp() == {}


def test_no_network_as_pip_itself_reports_it(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = load_launch(clone)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    pip = [sys.executable, "-m", "pip", "download", "--retries", "1", "--index-url", "http://127.0.0.1:9/", "no-such-package"]
    with pytest.raises(launch.CannotStart, match="The package index cannot be reached: check the network"):
        launch.run_installer(pip)


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "The disk is full"),
        ("ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/x'", "No permission"),
        ("ERROR: No matching distribution found for torch>=2.6", "A package has no release for this Python"),
        ("something else\nERROR: the reason\n", "Set-up failed (ERROR: the reason)"),
        ("", "Set-up failed (no reason given)"),
    ],
)
def test_a_failing_installer_is_explained(clone: Path, capfd: pytest.CaptureFixture[str], said: str, says: str) -> None:
    launch = load_launch(clone)
    code = f"import sys; sys.stderr.write({said!r}); sys.exit(1)"
    with pytest.raises(launch.CannotStart) as caught:
        launch.run_installer([sys.executable, "-c", code])
    assert str(caught.value).startswith(says)
    assert said in capfd.readouterr().err


# The tests


@pytest.mark.parametrize(
    ("codes", "code", "started"),
    [
        ({}, 0, ["studio", "ruff", "pytest"]),
        ({"ruff": 1}, 1, ["studio", "ruff", "pytest"]),
        ({"pytest": 2, "ruff": 1}, 2, ["studio", "ruff", "pytest"]),
        ({"studio": 4}, 4, ["studio"]),
    ],
)
def test_lint_tests_and_starter_each_can_fail_the_test_command(
    launch: ModuleType, monkeypatch: pytest.MonkeyPatch, codes: dict[str, int], code: int, started: list[str]
) -> None:
    seen: list[list[str]] = []

    def call(command: list[str], **_: Any) -> int:
        seen.append(command[2:])
        return codes.get(command[2], 0)

    monkeypatch.setattr(launch, "missing_packages", lambda needed: [])
    monkeypatch.setattr(launch.subprocess, "call", call)
    assert launch.main(["test", "-m", "not real", "tests/core"]) == code
    assert [command[0] for command in seen] == started
    if "pytest" in started:
        assert seen[-1] == ["pytest", "-m", "not real", "tests/core"]


def test_a_python_without_the_packages_is_told_in_a_sentence() -> None:
    asked = subprocess.run([sys.executable, "-S", "-m", "studio", "runs"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert asked.returncode == 1 and asked.stderr.startswith("PEFT Studio's packages are not in this Python")
    assert "Traceback" not in asked.stderr and "python3 launch.py" in asked.stderr
