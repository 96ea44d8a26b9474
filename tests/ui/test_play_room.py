"""The line before the model: first come first served, one question a page, stopped anywhere; and the idle model put away."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from studio.core.errors import PlayError
from studio.jobs.worker import Event
from studio.ui.play_room import PlayRoom


class FakeWorker:
    pid = 1
    last_used = 0.0

    def close(self):
        self.pid = None


def test_ten_people_are_served_in_the_order_in_which_they_came():
    room, served, positions = PlayRoom(FakeWorker()), [], {}

    def person(number):
        with room.stand_in_line(str(number)) as place:
            came.release()
            while ahead := room.ahead(place, wait_s=5):
                positions.setdefault(number, ahead)
            served.append(number)

    came = threading.Semaphore(0)
    with room.stand_in_line("first") as first:
        assert room.ahead(first) == 0
        people = [threading.Thread(target=person, args=(number,)) for number in range(10)]
        for one in people:
            one.start()
            assert came.acquire(timeout=5)
        assert room.waiting == 11
    for one in people:
        one.join(10)
    assert served == list(range(10))
    room.close()


def test_what_a_call_loads_is_remembered_as_what_a_question_loads():
    class Loading(FakeWorker):
        def stream(self, verb, **args):
            yield from (Event("loaded", {"verb": verb, **args}), Event("done", "answer"))

    room = PlayRoom(Loading())
    assert room.call("render", load=1) == "answer"
    assert room.loaded == {"verb": "render", "load": 1}
    room.worker.close()
    assert room.loaded is None
    room.close()


def test_a_page_asks_or_runs_one_thing_at_a_time():
    room = PlayRoom(FakeWorker())
    for first, second in itertools.product((room.stand_in_line, room.hold), repeat=2):
        with first("a"), pytest.raises(PlayError, match="busy with a question"), second("a"):
            pass
        with first("a"), second("b"):
            pass
    room.close()


def test_a_click_on_a_conversation_that_has_grown_since_is_refused():
    """It would bring back the page's older conversation, without the newest turn."""
    room = PlayRoom(FakeWorker())
    room.supersede("a", "one", "two")
    with pytest.raises(PlayError, match="has changed since"), room.hold("a", "one"):
        pass
    with room.hold("a", "two"), room.hold("b", "one"):
        pass
    room.supersede("a", "two", "one")  # brought back from a file
    with room.hold("a", "one"):
        pass
    room.supersede("a", "", "one")
    with room.hold("a", ""):
        pass
    room.close()


def test_a_stopped_question_learns_it_while_it_waits_and_others_do_not():
    room = PlayRoom(FakeWorker())
    with room.stand_in_line("a") as first, room.stand_in_line("b") as second, room.stand_in_line("c") as third:
        assert room.stop("b") and second.stopped.is_set()
        assert room.ahead(second, wait_s=60) == 1  # at once: it need not wait for its turn any more
        assert not first.stopped.is_set() and not third.stopped.is_set()
        assert room.ahead(third, wait_s=0) == 2
    assert not room.stop("b")
    room.close()


def test_the_model_is_put_away_only_when_nobody_has_asked_for_a_while():
    worker = FakeWorker()
    room = PlayRoom(worker, idle_s=1000)
    worker.last_used = time.monotonic() - 2000
    with room.stand_in_line("a"):
        assert not room.put_away_if_idle()
    assert not room.put_away_if_idle()  # asked just now
    worker.last_used = time.monotonic() - 2000
    assert room.put_away_if_idle() and worker.pid is None
    room.close()


def test_a_model_that_a_call_alone_has_loaded_is_put_away_too_but_not_while_it_works():
    class Loading(FakeWorker):
        def stream(self, verb, **args):
            self.last_used = time.monotonic() - 2000
            assert not room.put_away_if_idle()
            yield Event("done", "answer")

    room = PlayRoom(Loading(), idle_s=0.05)
    assert room.call("render") == "answer"
    deadline = time.monotonic() + 10
    while room.worker.pid is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert room.worker.pid is None
    room.close()
