"""What the Playground says of the memory: at every visit, at every question, and as soon as the worker has loaded the model."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import psutil
import pytest

from studio.core.records import RunResult, RunStatus
from studio.ui import playground
from studio.ui.conversation import Conversation
from studio.ui.play_ask import Step
from studio.ui.studio import Studio

LOADED = {"loaded": True, "quantization": "none", "dtype": "float32", "base_bytes": 4 * 10**8, "adapters": [], "memory_bytes": 9 * 10**8}


class FakeWorker:
    """A worker's process id and nothing else."""

    pid: int | None = None

    def close(self, grace_s: float = 0) -> None:
        self.pid = None


@pytest.fixture
def studio(home):
    studio = Studio(home)
    studio.play = studio.play_room.worker = FakeWorker()
    return studio


def test_a_run_that_has_ended_is_no_longer_named(studio, make_run):
    run = make_run("long", over=False)
    run.process.write_text(json.dumps({"pid": os.getpid(), "started": psutil.Process().create_time()}))
    assert "long is training" in playground.memory_now(studio)
    run.result.write_text(json.dumps(RunResult(RunStatus.FINISHED).to_json()))
    assert "No model in memory" in playground.memory_now(studio)
    studio.play.pid = 5
    assert playground.memory_now(studio) == ""
    studio.play_room.loaded = LOADED
    assert "the base in float32 (400 MB)" in playground.memory_now(studio)
    studio.play.pid = None
    assert "No model in memory" in playground.memory_now(studio)


def test_the_line_tells_of_the_model_while_the_answer_is_written(studio, monkeypatch):
    names = ("thread", "current", "prompt", "editing", "kept", "memory", "system", "blind", "strength")
    sources = SimpleNamespace(panes=(), system="")
    form = SimpleNamespace(**{n: n for n in names}, sources=lambda home, values: sources, sampling=lambda values: {})
    steps = [Step(), Step(0, {}, (), LOADED), Step(0, {}, (), LOADED)]
    monkeypatch.setattr(playground, "answer_turn", lambda *_: iter(steps))
    values = {"system": "", "blind": False, "strength": 1.0, "kept": ""}
    drawn = list(playground._answer(studio, form, values, "page", Conversation(), "hello"))
    assert "No model in memory" in drawn[0]["memory"] and "memory" not in drawn[1]
    assert "the base in float32 (400 MB)" in drawn[2]["memory"] and "memory" not in drawn[3]
