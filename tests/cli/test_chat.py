"""`chat` with a real worker: by pipe, on a terminal, with commands; every answer is the freshly loaded model's own."""

from __future__ import annotations

import codecs
import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from studio.cli.chat import Chat
from studio.cli.chat_screen import Answers, read_message
from studio.ui.conversation import Conversation, Pane, Turn
from tests.cli.conftest import json_lines, said

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--max-new-tokens", "6"]


@pytest.fixture
def model(lively_llama):
    return str(lively_llama)


def test_piped_turns_are_one_json_object_each_and_go_on_from_each_other(run, fresh, model):
    code, out, err = run("chat", model, "--json", *SHORT, lines=("Count.", "", "Again."))
    first, second = json_lines(out)
    assert code == 0 and err == ""
    assert first["panes"][0]["text"] == fresh(said("Count."), 6)
    assert second["panes"][0]["text"] == fresh(said("Count.", first["panes"][0]["text"], "Again."), 6)
    assert (first["prompt"], first["panes"][0]["tokens"], first["seed"]) == ("Count.", 6, 0)


def test_one_pane_in_a_pipe_is_its_words_and_nothing_else(run, fresh, model):
    assert run("chat", model, *SHORT, lines=("Count.",)) == (0, fresh(said("Count."), 6) + "\n", "")


def test_panes_answer_below_each_other_each_with_its_own_history(run, fresh, model, make_adapter):
    folder = make_adapter("adapter", 1)
    code, out, _ = run("chat", model, str(folder), *SHORT, lines=("Count.", "Again."))
    expected = ""
    for turn in (1, 2):
        for title, of in (("Base", None), ("adapter-1", folder)):
            first = fresh(said("Count."), 6, folder=of)
            text = first if turn == 1 else fresh(said("Count.", first, "Again."), 6, folder=of)
            expected += f"── {title}\n{text}\n"
    assert (code, out) == (0, expected)


def test_retry_edit_and_settings(run, fresh, model):
    lines = ("One.", "Two.", "/edit 1 Three.", "/retry", "/set temperature 1.5", "/set max_new_tokens 4", "/retry 1", "/retry")
    turns = json_lines(run("chat", model, "--json", *SHORT, lines=lines)[1])
    assert [turn["prompt"] for turn in turns] == ["One.", "Two.", "Three.", "Three.", "Three.", "Three."]
    third, retried = turns[2]["panes"][0]["text"], turns[3]["panes"][0]["text"]
    assert third == retried == fresh(said("Three."), 6)  # what came after the edited message is gone
    assert [(turn["seed"], turn["temperature"]) for turn in turns[3:]] == [(0, 0.0), (1, 1.5), (2, 1.5)]
    assert turns[4]["panes"][0]["tokens"] == 4 and turns[4]["panes"][0]["text"] != turns[5]["panes"][0]["text"]


def test_saved_as_the_page_exports_and_gone_on_from(run, fresh, model, tmp_path):
    path = tmp_path / "talk.json"
    code, first, _ = run("chat", model, "--system", "Be brief.", *SHORT, lines=("Count.", f"/save {path}"))
    saved = Conversation.from_json(path.read_text(encoding="utf-8"))
    assert code == 0 and saved.system == "Be brief." and saved.turns[0].answers["base"]["text"] == first[:-1]
    assert json.loads(path.read_text())["peft_studio_conversation"] == 1
    code, out, err = run("chat", model, "--load", str(path), *SHORT, lines=("/history", "Again.", f"/save {path}"))
    messages = [{"role": "system", "content": "Be brief."}, *said("Count.", first[:-1], "Again.")]
    assert (code, out) == (0, fresh(messages, 6) + "\n")
    assert "system: Be brief.\n1: Count.\n" in err
    assert len(Conversation.from_json(path.read_text(encoding="utf-8")).turns) == 2


def test_another_system_prompt_begins_anew(run, fresh, model):
    out = json_lines(run("chat", model, "--json", *SHORT, lines=("One.", "/system Be brief.", "Two."))[1])
    assert out[1]["panes"][0]["text"] == fresh([{"role": "system", "content": "Be brief."}, *said("Two.")], 6)


def test_what_fails_is_told_and_the_rest_goes_on(run, model, tmp_path):
    foreign = tmp_path / "notes.json"
    foreign.write_text("[1]")
    other = tmp_path / "other.json"
    other.write_text(Conversation(panes=(Pane("run:other", "Other"),)).to_json())
    lines = ("/retry", "/bogus", f"/save {foreign}", "/load", f"/load {tmp_path}", "/set", "/set seed x", "/set odd 1",
             "word " * 3000, "/edit 4 x", "Count.", "/edit 4 x")  # fmt: skip
    code, out, err = run("chat", model, "--json", *SHORT, lines=lines)
    *failures, answer, last = json_lines(out)
    assert code == 1 and answer["prompt"] == "Count." and "no message 4" in last["message"]
    named = ["Nothing has been asked", "no command /bogus", "no conversation", "No file", "cannot be read", "no value of seed",
             "no setting 'odd'", "too long", "Nothing has been asked"]  # fmt: skip
    assert len(failures) == len(named)
    assert all(text in failure["message"] for text, failure in zip(named, failures, strict=True)), failures
    assert foreign.read_text() == "[1]" and "temperature 0\n" in err


def test_a_message_of_several_lines_and_one_with_a_slash(monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO('one\n"""two\nthree"""\n"""\nfour\n"""\n//five\n"""six\n'))
    assert [read_message() for _ in range(6)] == ["one", "two\nthree", "four", "//five", "six", None]


def test_answers_that_come_together_are_printed_one_below_the_other(capsys):
    answers = Answers([Pane("a", "A"), Pane("b", "B"), Pane("c", "C")])
    answers.show({"a": "x", "b": "1", "c": ""}, ["a", "b"])
    assert capsys.readouterr().out == "── A\nx"
    answers.show({"a": "xy", "b": "12", "c": ""}, ["a", "b"])
    answers.show({"a": "xy", "b": "123", "c": "!"}, ["c"])
    assert capsys.readouterr().out == "y\n── B\n123\n── C\n!"
    answers.show({"a": "xy", "b": "123", "c": "!?"}, [], ended=True)
    assert capsys.readouterr().out == "?\n"


ADDS = "Here it is:\n```python\ndef add(a, b):\n    return a + b\nprint(add(1, 2))\n```"
FAILS = "```python\nprint('before')\nraise ValueError('no such list')\n```"


def talked(path, *answers):
    """A saved conversation whose only turn was answered so by the base, and by a run beside it where there are two."""
    panes = tuple(Pane(name, title) for name, title in (("base", "Base"), ("run:tuned", "tuned"))[: len(answers)])
    given = {pane.id: {"text": text, "tokens": 1, "seconds": 1.0} for pane, text in zip(panes, answers, strict=True)}
    path.write_text(Conversation(panes=panes, turns=(Turn("Write add.", given),)).to_json(), encoding="utf-8")
    return path


def test_the_code_of_an_answer_runs_in_the_sandbox_with_a_test_beside_it(run, model, tmp_path):
    path = talked(tmp_path / "talk.json", ADDS)
    lines = (f"/load {path}", "/run", "/run 1 assert add(2, 2) == 5", f"/save {path}")
    code, out, err = run("chat", model, lines=lines)
    assert (code, out) == (0, "3\n3\n")
    assert "The program ended normally (0." in err and " MiB)." in err
    assert "0 of 1 tests passed" in err and "✗ assert add(2, 2) == 5" in err
    ran = Conversation.from_json(path.read_text(encoding="utf-8")).turns[0].runs["base"]  # as the page shows it
    assert ran["stdout"] == "3\n" and ran["tests"][0]["passed"] is False


def test_a_program_that_fails_says_so_and_what_cannot_be_run_is_refused(run, model, tmp_path):
    path = talked(tmp_path / "talk.json", FAILS)
    code, out, err = run("chat", model, lines=(f"/load {path}", "/run"))
    assert (code, out) == (0, "before\n") and "The program raised ValueError: no such list" in err
    words = talked(tmp_path / "words.json", "I would rather not.")
    code, out, err = run("chat", model, lines=("/run", f"/load {words}", "/run", "/run 7"))
    assert (code, out) == (1, "")
    assert "Nothing has been asked" in err and "There is no Python in this answer." in err and "no message 7" in err


def test_every_pane_has_its_own_run_and_one_json_object_holds_them(run, model, tmp_path, monkeypatch):
    ran = {"base": {"stdout": "3\n", "summary": "Ended."}, "run:tuned": {"refused": "There is no Python in this answer."}}
    monkeypatch.setattr("studio.cli.chat.run_code", lambda studio, text, tests: ran["base" if text == ADDS else "run:tuned"])
    loaded = Conversation.from_json(talked(tmp_path / "talk.json", ADDS, "No.").read_text(encoding="utf-8"))
    for as_json in (False, True):
        chat = Chat(None, SimpleNamespace(panes=loaded.panes, system=""), {}, 1.0, as_json)
        chat.conversation = loaded
        chat.take("/run")
        assert chat.conversation.turns[0].runs == ran


class Terminal:
    """`python -m studio chat` on a terminal of its own."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.fd, end = pty.openpty()
        command = [sys.executable, "-m", "studio", "--home", str(home), "chat", *arguments]
        environment = {**os.environ, "TERM": "dumb", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=end, stdout=end, stderr=end, env=environment, start_new_session=True, preexec_fn=_own_terminal
        )  # fmt: skip
        os.close(end)
        self.text = ""
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character's bytes may come one by one

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, text: str) -> str:
        """What came up to and including `text`."""
        while text not in self.text:
            self._read()
        before, _, self.text = self.text.partition(text)
        return before + text

    def wait_for_any(self) -> None:
        """Until something more than blank has come."""
        while not self.text.strip():
            self._read()

    def interrupt(self) -> None:
        """What Ctrl-C sends to everything on the terminal, without the terminal's own forgetting of what was about to be printed."""
        os.killpg(self.process.pid, signal.SIGINT)

    def settle(self) -> None:
        """Until nothing has come for half a second; what came is forgotten."""
        while select.select([self.fd], [], [], 0.5)[0]:
            self._read()
        self.text = ""

    def _read(self) -> None:
        assert select.select([self.fd], [], [], 120)[0], self.text
        self.text += self.decoder.decode(os.read(self.fd, 4096)).replace("\r\n", "\n")


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_on_a_terminal_ctrl_c_stops_the_answer_and_not_the_program(home, model):
    terminal = Terminal(home.root, model, "--max-new-tokens", "450", "--temperature", "2", "--seed", "3")
    try:
        terminal.wait_for("› ")
        terminal.type("Hello.\n")
        terminal.wait_for("In memory: the base in ")
        ends = []
        while "you" not in ends and len(ends) < 20:  # so small a model may end by itself before it is interrupted
            terminal.settle()
            terminal.type("Count.\n")
            terminal.wait_for("Count.\n")
            terminal.wait_for_any()
            terminal.interrupt()
            terminal.wait_for("ended by ")
            ends.append(terminal.wait_for("\n").strip())
        assert "you" in ends, ends
        terminal.settle()
        terminal.type("/set max_new_tokens 3\n")
        terminal.settle()
        terminal.type("/retry\n")
        assert "Base: 3 tokens" in terminal.wait_for("ended by token limit")
        terminal.settle()
        terminal.type("/quit\n")
        assert terminal.process.wait(60) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.fd)
