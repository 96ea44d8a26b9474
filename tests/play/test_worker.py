"""The playground's process as the studio drives it: its protocol, its errors, its memory, and many people at once."""

from __future__ import annotations

import threading

import pytest

from studio.core.errors import MethodError, ModelNotFound, PlayError
from studio.core.files import read_json
from studio.core.paths import StudioHome
from studio.jobs.worker import Worker


@pytest.fixture
def home(studio_home):
    return StudioHome.find(studio_home)


@pytest.fixture
def worker(home, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    worker = Worker("studio.play", home.root / "play.log", arguments=["--home", str(home.root)])
    yield worker
    worker.close(grace_s=1)


@pytest.fixture
def load(lively_llama):
    return {"model": {"id": str(lively_llama), "dtype": "float32"}}


def test_a_question_from_loading_to_its_answers(worker, home, load, make_adapter):
    adapters = {"tuned": str(make_adapter("lora", 1)), "prefix": str(make_adapter("prefix", 1))}
    events = list(
        worker.stream(
            "generate", panes=["base", *adapters], prompt="Count.", sampling={"max_new_tokens": 8}, load=load | {"adapters": adapters}
        )
    )
    assert read_json(home.playground)["pid"] == worker.pid
    assert events[0].name == "loaded" and events[0].data["families"] == {"tuned": "lora", "prefix": "prefix"}
    assert [event.data["panes"] for event in events if event.name == "pass"] == [["base", "tuned"], ["prefix"]]
    done = events[-1].data
    for pane in done["panes"]:
        assert (
            "".join(event.data["text"] for event in events if event.name == "token" and event.data["pane"] == pane["pane"]) == pane["text"]
        )
        assert pane["tokens"] == 8 and 0 < pane["first_token_s"] <= pane["seconds"]
    rendered = worker.call("render", prompt="Count.", load=load)
    assert rendered["text"] == "<|im_start|>user\nCount.<|im_end|>\n<|im_start|>assistant\n"
    assert "".join(token["text"] for token in rendered["tokens"]) == rendered["text"]
    assert len(rendered["tokens"]) == done["prompt_tokens"]


def test_a_request_that_cannot_be_answered_leaves_the_worker_answering(worker, load, tmp_path):
    with pytest.raises(PlayError, match="No model is loaded"):
        worker.call("generate", panes=["base"], prompt="Count.")
    with pytest.raises(ModelNotFound):
        worker.call("load", model={"id": str(tmp_path / "nowhere")})
    with pytest.raises(MethodError, match="holds no adapter"):
        worker.call("load", **load, adapters={"tuned": str(tmp_path)})
    with pytest.raises(PlayError, match="temperature"):
        worker.call("generate", panes=["base"], prompt="Count.", sampling={"temperature": -1}, load=load)
    assert worker.call("generate", panes=["base"], prompt="Count.", sampling={"max_new_tokens": 2}, load=load)["panes"][0]["tokens"] == 2


def test_closing_the_stream_stops_the_computing(worker, load):
    stream = worker.stream("generate", panes=["base"], prompt="Count.", sampling={"max_new_tokens": 400, "temperature": 2.0}, load=load)
    next(event for event in stream if event.name == "token")
    stream.close()
    # Requests are answered in order, so this one's answer says that the one before has ended: long before 400 tokens.
    done = worker.call("generate", panes=["base"], prompt="Count.", sampling={"max_new_tokens": 1})
    assert done["panes"][0]["tokens"] == 1


def test_many_people_each_get_their_own_answer_from_their_own_model(worker, load, make_adapter):
    """Ten people at once with four different sets of adapters: what each gets is what a person alone gets."""
    sets = [{}, {"mine": str(make_adapter("lora", 1))}, {"mine": str(make_adapter("lora", 2))}, {"mine": str(make_adapter("adapter", 1))}]

    def ask(number):
        panes = ["base", *sets[number % 4]]
        done = worker.call(
            "generate",
            panes=panes,
            prompt=f"Count to {number}.",
            sampling={"max_new_tokens": 6},
            load=load | {"adapters": sets[number % 4]},
        )
        return [pane["text"] for pane in done["panes"]]

    alone = [ask(number) for number in range(10)]
    assert len({text for texts in alone for text in texts}) > 10
    together: dict[int, list[str]] = {}
    people = [threading.Thread(target=lambda number=number: together.update({number: ask(number)})) for number in range(10)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert [together[number] for number in range(10)] == alone


def test_unloading_by_closing_ends_the_process_and_the_next_question_starts_another(worker, load):
    worker.call("load", **load)
    first = worker.pid
    worker.close()
    assert worker.pid is None
    assert worker.call("generate", panes=["base"], prompt="Count.", sampling={"max_new_tokens": 1}, load=load)["panes"]
    assert worker.pid not in (None, first)
