"""The small child that finds, compares and runs code, over its protocol."""

from __future__ import annotations

import pytest

from studio.core.errors import PlayError
from studio.jobs.worker import Worker

ANSWER = "Here you are:\n```python\ndef double(x):\n    return 2 * x\n```\nDone."


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    worker = Worker("studio.play.runner", tmp_path_factory.mktemp("logs") / "runner.log")
    yield worker
    worker.close(grace_s=1)


def test_code_is_found_and_compared(runner):
    (blocks, none) = runner.call("find", texts=[ANSWER, "No code here."])
    assert blocks == [
        {"code": "def double(x):\n    return 2 * x", "language": "python", "python": True, "first_line": 2, "end_line": 4, "formatted": "",
         "unformatted": ""}
    ]  # fmt: skip
    assert none == []
    assert [line["kind"] for line in runner.call("diff", first="a\nb", second="a\nc")] == ["same", "removed", "added"]


def test_python_is_formatted_and_other_languages_are_left(runner):
    text = "```python\nx=1\n```\n```python\nx=\n```\n```js\nlet x=1\n```\n"
    ((tidy, broken, other),) = runner.call("find", texts=[text])
    assert (tidy["code"], tidy["formatted"], tidy["unformatted"]) == ("x=1", "x = 1", "")
    assert broken["formatted"] == "" and "does not parse" in broken["unformatted"]
    assert (other["formatted"], other["unformatted"]) == ("", "")


def test_code_runs_in_the_sandbox_with_the_persons_tests(runner):
    assert runner.call("status")["available"]
    ended = runner.call("run", text=ANSWER, tests="assert double(2) == 4\nassert double(1) == 3")
    assert [test["passed"] for test in ended["tests"]] == [True, False] and not ended["ok"]
    assert runner.call("run", text=ANSWER, tests="assert double(2) == 4")["ok"]


def test_an_answer_without_python_is_named(runner):
    with pytest.raises(PlayError, match="no Python"):
        runner.call("run", text="I cannot do that.")
