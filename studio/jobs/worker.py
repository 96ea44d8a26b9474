"""The studio's side of a worker process: start it when first asked, stream its events, cancel, kill.

Speaks studio.core.protocol. Knows nothing of what the worker does: it is started as `python -m MODULE`, in a process group of its
own, so that killing it frees all of its memory. A worker that died is started anew by the next call.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from studio.core.errors import WorkerError, from_json
from studio.core.files import read_tail

CANCEL_LOOK_S = 0.05
"""How often a silent call is looked at for whether it should be cancelled."""

CHILD_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "BITSANDBYTES_NOWELCOME": "1",
}


class Event(NamedTuple):
    """An intermediate event of a call, or its end (name 'done')."""

    name: str
    data: Any


@dataclass
class _Child:
    process: subprocess.Popen[str]
    inboxes: dict[int, queue.Queue[dict[str, Any]]]
    death: dict[str, Any] | None = None
    """The message that every call gets once the process is gone."""


class Worker:
    """One worker process of `module`, shared by any number of threads. Its requests are answered in order."""

    def __init__(self, module: str, log: Path, *, arguments: list[str] | None = None, start_timeout_s: float = 60) -> None:
        self.command = [sys.executable, "-m", module, *(arguments or [])]
        self.log = log
        self.start_timeout_s = start_timeout_s
        self.last_used = time.monotonic()
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._child: _Child | None = None

    @property
    def pid(self) -> int | None:
        """The live worker's process id, else None."""
        child = self._child
        return child.process.pid if child and child.process.poll() is None else None

    def call(self, verb: str, **args: Any) -> Any:
        """The data of the call's end. Raises the StudioError the worker answered with, or WorkerError."""
        for event in self.stream(verb, **args):
            if event.name == "done":
                return event.data
        raise WorkerError(f"The worker ended {verb} without an answer.")

    def stream(self, verb: str, *, until: threading.Event | None = None, **args: Any) -> Iterator[Event]:
        """Events as they come, 'done' last. Closing the iterator early cancels the call.

        Setting `until` cancels it too, but lets it end as its handler ends a cancelled call, with the events that brings.
        """
        child = self._ensure()
        call_id = next(self._ids)
        inbox: queue.Queue[dict[str, Any]] = queue.Queue()
        child.inboxes[call_id] = inbox
        if child.death is not None:  # it died before it could know of this call
            inbox.put(child.death)
        self._send(child, {"id": call_id, "verb": verb, "args": args})
        cancel = {"id": 0, "verb": "cancel", "args": {"id": call_id}}
        ended = False
        try:
            while not ended:
                message = self._next_message(inbox, until)
                if message is None:
                    until = None
                    self._send(child, cancel)
                    continue
                self.last_used = time.monotonic()
                ended = message["event"] in ("done", "error")
                if message["event"] == "error":
                    raise from_json(message["data"])
                yield Event(message["event"], message["data"])
        finally:
            child.inboxes.pop(call_id, None)
            if not ended:
                self._send(child, cancel)

    @staticmethod
    def _next_message(inbox: queue.Queue[dict[str, Any]], until: threading.Event | None) -> dict[str, Any] | None:
        """The next message; None as soon as `until` is set."""
        while until is not None:
            if until.is_set():
                return None
            with contextlib.suppress(queue.Empty):
                return inbox.get(timeout=CANCEL_LOOK_S)
        return inbox.get()

    def close(self, grace_s: float = 2.0) -> None:
        """End the worker and give its memory back. Safe to call at any time, from any thread."""
        with self._lock:
            child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(OSError):
            child.process.stdin.close()  # type: ignore[union-attr]
        try:
            child.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            kill_group(child.process.pid)
            child.process.wait()

    def _ensure(self) -> _Child:
        with self._lock:
            self.last_used = time.monotonic()
            if self._child is None or self._child.process.poll() is not None:
                self._child = self._start()
            return self._child

    def _start(self) -> _Child:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
                start_new_session=True, env={**os.environ, **CHILD_ENVIRONMENT},
            )  # fmt: skip
        child = _Child(process, {0: queue.Queue()})
        threading.Thread(target=self._listen, args=(child,), daemon=True).start()
        try:
            message = child.inboxes[0].get(timeout=self.start_timeout_s)
        except queue.Empty:
            kill_group(process.pid)
            process.wait()
            raise WorkerError("A worker process did not start in time.", f"Its log: {read_tail(self.log, 500)}") from None
        if message["event"] == "error":
            raise from_json(message["data"])
        return child

    def _listen(self, child: _Child) -> None:
        for line in child.process.stdout or ():
            message = _parse(line)
            inbox = child.inboxes.get(message["id"]) if message else None
            if inbox is not None:
                inbox.put(message)
        child.process.wait()
        for pipe in (child.process.stdout, child.process.stdin):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        died = WorkerError(_how_it_died(child.process.returncode), f"The end of its log: {read_tail(self.log, 500).strip()}").to_json()
        child.death = {"id": 0, "event": "error", "data": died}
        for inbox in list(child.inboxes.values()):
            inbox.put(child.death)

    def _send(self, child: _Child, message: dict[str, Any]) -> None:
        # A dead worker is reported by _listen, with its exit code; the broken pipe says nothing more.
        with self._lock, contextlib.suppress(OSError, ValueError):
            child.process.stdin.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
            child.process.stdin.flush()  # type: ignore[union-attr]


def _parse(line: str) -> dict[str, Any] | None:
    """A message; None for what a library printed before the worker claimed its standard output."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and {"id", "event", "data"} <= message.keys() else None


def _how_it_died(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "The worker process was killed, most likely because the machine ran out of memory."
    if code == -signal.SIGTERM:
        return "The worker process was ended to free its memory, as the start of a run does with the playground."
    return f"The worker process ended unexpectedly (exit code {code})."


def kill_group(pid: int) -> None:
    """SIGKILL to the process group that `pid` leads; nothing when it is gone. On Windows the process alone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGTERM)
