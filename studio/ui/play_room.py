"""Who is asking: one line for all pages, first come first served, each page with one thing at work; and the idle model put away.

The model is one and answers one question at a time. A question that waits can say how many are before it; one that is stopped ends at
its next word. After IDLE_S without a question the worker is closed, which gives its memory back.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from studio.core.errors import PlayError, WorkerError
from studio.jobs.worker import Worker

IDLE_S = 600.0
LOOK_S = 20.0
SUPERSEDED, PAGES = 4, 64
"""So many of a page's last conversations are remembered as replaced, of so many pages."""


class Place:
    """One question's place in the line."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.stopped = threading.Event()


class PlayRoom:
    """The line before one play worker."""

    def __init__(self, worker: Worker, idle_s: float = IDLE_S) -> None:
        self.worker = worker
        self.idle_s = idle_s
        self._line: list[Place] = []
        self._busy: set[str] = set()
        self._superseded: OrderedDict[str, list[int]] = OrderedDict()
        self._calls = 0
        self._moved = threading.Condition()
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None
        self._loaded: tuple[int | None, dict[str, Any] | None] = (None, None)

    def supersede(self, session: str, old: str, new: str) -> None:
        """The page was given the conversation `new` in place of `old`: what it still asks of the old one came before it knew."""
        if old and old != new:
            with self._moved:
                known = [text for text in self._superseded.pop(session, []) if text not in (hash(old), hash(new))]
                self._superseded[session] = [*known, hash(old)][-SUPERSEDED:]
                while len(self._superseded) > PAGES:
                    self._superseded.popitem(last=False)

    @contextlib.contextmanager
    def hold(self, session: str, kept: str = "") -> Iterator[None]:
        """The page's conversation `kept` for one change until the context ends: what ends later would undo what began meanwhile. Raises
        PlayError while it is held already, and where the page has been given a newer one since."""
        with self._moved:
            if session in self._busy:
                raise PlayError("This page is busy with a question or a program.", "Wait until it has ended, or press Stop.")
            if hash(kept) in self._superseded.get(session, ()):
                raise PlayError("The conversation has changed since that click.", "Look at it as it is now, then click again.")
            self._busy.add(session)
        try:
            yield
        finally:
            with self._moved:
                self._busy.discard(session)

    @contextlib.contextmanager
    def stand_in_line(self, session: str, kept: str = "") -> Iterator[Place]:
        """A place at the end of the line until the context ends. Raises PlayError as `hold` does."""
        place = Place(session)
        with self.hold(session, kept):
            with self._moved:
                self._line.append(place)
                self._watch()
            try:
                yield place
            finally:
                with self._moved:
                    self._line.remove(place)
                    self.worker.last_used = time.monotonic()
                    self._moved.notify_all()

    def ahead(self, place: Place, wait_s: float = 0.5) -> int:
        """How many questions are before this one; waits up to `wait_s` seconds for its turn."""
        with self._moved:
            self._moved.wait_for(lambda: place.stopped.is_set() or self._line[0] is place, wait_s)
            return self._line.index(place)

    def stop(self, session: str) -> bool:
        """Stop the session's question, wherever it is in the line. False where it has none."""
        with self._moved:
            found = [place for place in self._line if place.session == session]
            for place in found:
                place.stopped.set()
            self._moved.notify_all()
        return bool(found)

    @property
    def loaded(self) -> dict[str, Any] | None:
        """What the worker told of the model it holds; None where it was closed since."""
        pid, loaded = self._loaded
        return loaded if pid == self.worker.pid else None

    @loaded.setter
    def loaded(self, told: dict[str, Any]) -> None:
        self._loaded = (self.worker.pid, told)

    def call(self, verb: str, **args: Any) -> Any:
        """The worker's answer; what it says of the model it loaded for it is remembered. Raises as Worker.call."""
        with self._moved:
            self._calls += 1
            self._watch()
        try:
            for event in self.worker.stream(verb, **args):
                if event.name == "loaded":
                    self.loaded = event.data
                elif event.name == "done":
                    return event.data
        finally:
            with self._moved:
                self._calls -= 1
                self.worker.last_used = time.monotonic()
        raise WorkerError(f"The worker ended {verb} without an answer.")

    @property
    def waiting(self) -> int:
        return len(self._line)

    def close(self) -> None:
        self._closed.set()

    def put_away_if_idle(self) -> bool:
        """Close the worker where nobody waits for it and nothing was asked for `idle_s` seconds."""
        with self._moved:
            if self._line or self._calls or self.worker.pid is None or time.monotonic() - self.worker.last_used < self.idle_s:
                return False
        self.worker.close()
        return True

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._put_away_when_idle, daemon=True)
            self._watcher.start()

    def _put_away_when_idle(self) -> None:
        while not self._closed.wait(min(LOOK_S, self.idle_s)):
            self.put_away_if_idle()
