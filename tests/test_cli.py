"""The command line in this process, and where signals or start-up matter in one of its own. Runs are those of the scripted child."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from studio.__main__ import build_parser, main
from studio.cli.output import ProgressLine
from studio.core.files import read_json, write_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import Progress, RunResult, RunStatus
from studio.core.spec import RunSpec
from studio.jobs import queue, store
from studio.jobs.process import end_group

ROOT = Path(__file__).resolve().parents[1]
VERBS = sorted(next(iter(action.choices for action in build_parser()._actions if action.choices)))
RUN = "20260102-030405-mine"


@pytest.fixture
def home(studio_home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A home whose runs are scripted, without a model or data behind them."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests" / "faults")]))
    monkeypatch.setattr("studio.cli.train.TRAIN_MODULE", "scripted_child")
    monkeypatch.setattr("studio.cli.train.plan_run", lambda spec, home: {"total_bytes": 1})
    monkeypatch.setattr("studio.cli.train.ensure_starter", lambda home, spec: None)
    home = StudioHome.find(studio_home)
    yield home
    for paths in store.run_folders(home):
        worker = store.find_worker(paths)
        if worker:
            end_group(worker, grace_s=0, working_on=paths.id)
    queue.reap_children()


@pytest.fixture
def finished(home: StudioHome) -> RunPaths:
    paths = RunPaths(home.runs / RUN)
    write_json(paths.spec, RunSpec.parse({"name": "mine"}).to_json())
    write_json(paths.progress, vars(Progress("done", 10, 10)))
    write_json(paths.result, RunResult(RunStatus.FINISHED, steps=10, eval_loss_before=2.5, eval_loss_after=1.25, seconds=61).to_json())
    return paths


@pytest.fixture
def spec_file(tmp_path: Path) -> str:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"name": "from a file", "data": {"system_prompt": "0.002"}, "training": {"max_steps": 6}}))
    return str(path)


def last_json(text: str) -> Any:
    return json.loads(text.splitlines()[-1])


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert set(VERBS) <= set(re.findall(r"^    ([a-z0-9-]+)(?: |$)", text, re.MULTILINE))
    expected = {"serve", "setup", "demo", "train", "runs", "show", "stop", "cancel", "resume", "delete", "plan", "compare", "preview"}
    assert expected <= set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_takes_a_home(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert "--home" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["frobnicate"], ["show"], ["runs", "--frob"], ["serve", "--port", "many"], ["--home"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("before", [True, False])
def test_the_home_may_stand_before_or_after_the_verb(before: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = ["--home", str(tmp_path / "here")]
    assert main([*named, "runs", "--json"] if before else ["runs", "--json", *named]) == 0
    assert (tmp_path / "here" / "runs").is_dir()
    assert last_json(capsys.readouterr().out) == []


@pytest.mark.parametrize("arguments", [[], ["--port", "8123", "--no-browser"], ["serve", "--port", "8123", "--host", "::1"]])
def test_without_a_verb_it_serves(arguments: list[str], home: StudioHome, monkeypatch: pytest.MonkeyPatch) -> None:
    import studio.ui.app

    asked: list[Any] = []
    monkeypatch.setattr(studio.ui.app, "serve", lambda *args: asked.append(args))
    assert main(arguments) == 0
    ((served, host, port, browser),) = asked
    assert served == home
    assert host == ("::1" if "::1" in arguments else "127.0.0.1")
    assert port == (8123 if "8123" in arguments else 7860)
    assert browser == ("--no-browser" not in arguments)


def test_the_address_is_in_the_output_as_soon_as_it_answers_also_in_a_file(home: StudioHome, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    said = tmp_path / "said.txt"
    with said.open("wb") as file:
        command = [sys.executable, "-m", "studio", "serve", "--no-browser", "--port", str(port), "--home", str(home.root)]
        # A shell that starts the tests in its background has told them to ignore Ctrl-C, and a child inherits that.
        hear = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
        server = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, preexec_fn=hear)
    try:
        deadline = time.monotonic() + 90
        while "PEFT Studio:" not in said.read_text() and server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert f"PEFT Studio: http://127.0.0.1:{port}\n" in said.read_text()
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
        server.send_signal(signal.SIGINT)
        server.wait(30)
    finally:
        server.kill()
        server.wait()


def test_a_port_in_use_is_one_sentence(home: StudioHome, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1]), "--no-browser"]) == 1
    assert "cannot be used" in capsys.readouterr().err


def test_an_open_address_needs_a_password(home: StudioHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("PEFT_STUDIO_PASSWORD", raising=False)
    assert main(["serve", "--host", "0.0.0.0", "--no-browser"]) == 1
    assert "PEFT_STUDIO_PASSWORD" in capsys.readouterr().err


def test_runs_are_listed(finished: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert all(word in line for word in (RUN, "finished", "lora", "starter", "10/10", "2.5000 → 1.2500", "1 min 01 s"))
    assert main(["runs", "--json"]) == 0
    (run,) = last_json(capsys.readouterr().out)
    assert (run["id"], run["status"], run["eval_loss_after"], run["created"]) == (RUN, "finished", 1.25, "2026-01-02T03:04:05")


def test_an_empty_home_says_what_to_do(home: StudioHome, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    assert "train quickstart" in capsys.readouterr().err


def test_a_run_is_shown(finished: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", RUN]) == 0
    assert "eval loss 2.5000 → 1.2500" in capsys.readouterr().out
    assert main(["show", RUN, "--json"]) == 0
    shown = last_json(capsys.readouterr().out)
    assert (shown["run"], shown["result"]["steps"], shown["spec"]["name"]) == (RUN, 10, "mine")


@pytest.mark.parametrize("verb", ["show", "stop", "cancel", "resume", "delete", "restore"])
def test_an_unknown_run_is_a_sentence_and_exit_code_1(verb: str, home: StudioHome, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "../../etc"]) == 1
    said = capsys.readouterr()
    assert "There is no run '../../etc'" in said.err and "Traceback" not in said.err and said.out == ""


def test_an_error_is_also_json_where_json_was_asked_for(home: StudioHome, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "none", "--prompt", "x", "--json"]) == 1
    assert last_json(capsys.readouterr().out)["error"] == "RunNotFound"


def test_compare_needs_an_adapter(finished: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", RUN, "--prompt", "x"]) == 1
    assert "has no adapter" in capsys.readouterr().err


def test_a_deleted_run_comes_back(finished: RunPaths, home: StudioHome, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["delete", RUN]) == 0
    assert f"restore {RUN}" in capsys.readouterr().out
    assert store.list_runs(home) == []
    assert main(["restore", RUN]) == 0
    assert [run.id for run in store.list_runs(home)] == [RUN]


def test_the_trash_is_emptied_once_it_was_said_how_much_that_is(
    finished: RunPaths, home: StudioHome, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["empty-trash"]) == 0
    assert "The trash is empty." in capsys.readouterr().out
    main(["delete", RUN])
    for typed, code in (("no\n", 1), ("", 1), ("yes\n", 0)):
        assert (home.trash / RUN).is_dir()
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        assert main(["empty-trash"]) == code
        assert re.search(r"In the trash: 1 run, [\d.]+ [kM]?B", capsys.readouterr().out)
    assert not (home.trash / RUN).exists()


def test_the_plan_shows_what_each_method_adds_beside_the_lectures_words(home: StudioHome, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--home", str(home.root), "plan", "lecture", "--full"]) == 0
    text = capsys.readouterr().out
    assert "LoRA: 851,968 parameters, 0.0689 %" in text and "self_attn.v_proj A 8 × 2048, B 512 × 8: 20,480" in text
    assert "lecture: 262,144 for 16 virtual tokens (Llama-3.2-1B). Counted here, it holds: 262,144" in text
    assert main(["--home", str(home.root), "plan", "lecture", "--json"]) == 0
    families = json.loads(capsys.readouterr().out.splitlines()[-1])["families"]
    assert [item["card"]["parameters"] for item in families] == [851_968, 851_968, 16 * 264_256, 262_144]


def test_presets_are_listed(home: StudioHome, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    assert "lecture     meta-llama/Llama-3.2-1B" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "neither a preset"),
        (["quickstart", "--set", "training.learning_rate=0"], "learning_rate"),
        (["quickstart", "--set", "training.learning_rate=text"], "learning_rate"),
        (["quickstart", "--set", "method.rank=0", "--set", "frob=1"], "frob is not a setting"),
        (["quickstart", "--set", "method.rank"], "not key=value"),
    ],
)
def test_settings_that_cannot_be_start_nothing(
    arguments: list[str], words: str, home: StudioHome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments]) == 1
    assert words in capsys.readouterr().err
    assert store.list_runs(home) == []


def test_train_watches_a_run_to_its_end(spec_file: str, home: StudioHome, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", spec_file, "--set", "training.max_steps=8", "--json"]) == 0
    said = capsys.readouterr()
    end = last_json(said.out)
    assert (end["status"], end["steps"]) == ("finished", 8)
    assert end["run"].endswith("-from-a-file")
    assert read_json(home.run(end["run"]).plan) == {"total_bytes": 1}
    assert "8/8" in said.err and "finished: 8 steps" in said.err


def test_an_evaluation_says_how_far_it_is_once_a_quarter(home: StudioHome) -> None:
    paths, out = RunPaths(home.runs / RUN), io.StringIO()
    line = ProgressLine(paths, out)
    for batch in range(1, 21):
        write_json(paths.progress, vars(Progress("evaluating", 0, 100, batch, 20)))
        line.show("running")
    bar = f"[{'·' * 24}] 0/100  evaluating"
    assert out.getvalue() == "".join(f"{bar} {batch} of 20 batches\n" for batch in (1, 5, 10, 15, 20))


def test_train_detached_returns_and_resume_goes_on(spec_file: str, home: StudioHome, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", spec_file, "--detach", "--json"]) == 0
    run_id = last_json(capsys.readouterr().out)["run"]
    while not store.read_status(home.run(run_id)).is_over:
        time.sleep(0.02)
    assert main(["resume", run_id, "--steps", "9", "--json"]) == 0
    assert last_json(capsys.readouterr().out)["steps"] == 9
    assert main(["resume", run_id, "--steps", "9"]) == 1
    assert "9 steps already" in capsys.readouterr().err


def test_a_run_that_dies_is_exit_code_1_with_its_log(spec_file: str, home: StudioHome, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", spec_file, "--set", "data.system_prompt=die"]) == 1
    assert "about to die" in capsys.readouterr().err


WATCH = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests in the background has it ignored
import studio.cli.train as train
from studio.__main__ import main
train.TRAIN_MODULE = "scripted_child"
train.plan_run = lambda spec, home: None
train.ensure_starter = lambda home, spec: None
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("times", "script", "status", "code"), [(1, "0.01", "stopped", 0), (2, "0.01 deaf", "cancelled", 1)])
def test_ctrl_c_stops_and_saves_and_a_second_one_cancels(
    times: int, script: str, status: str, code: int, spec_file: str, home: StudioHome
) -> None:
    changes = ["--set", "training.max_steps=5000", "--set", f"data.system_prompt={json.dumps(script)}"]
    command = subprocess.Popen(
        [sys.executable, "-c", WATCH, "train", spec_file, *changes, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while not any((read_json(paths.progress) or {}).get("step", 0) > 2 for paths in store.run_folders(home)):
        assert time.monotonic() < deadline and command.poll() is None
        time.sleep(0.02)
    (paths,) = store.run_folders(home)
    time.sleep(0.2)
    command.send_signal(signal.SIGINT)
    if times == 2:
        while not paths.stop.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3)
        command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=30)
    assert last_json(out)["status"] == status, err
    assert command.returncode == code
    assert "Ctrl-C again cancels it" in err
    assert (paths.adapter / "adapter_config.json").exists() == (status == "stopped")


def test_the_command_line_starts_without_anything_heavy() -> None:
    heavy = {"torch", "transformers", "gradio", "plotly", "pandas", "numpy"}
    script = f"import sys, studio.__main__; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
