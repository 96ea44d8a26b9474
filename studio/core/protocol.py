"""How the studio talks to a worker: JSON lines over the child's standard input and output.

A request is {"id", "verb", "args"}. The worker answers with any number of {"id", "event", "data"} lines and ends each request with
event "done" or "error" (data: StudioError.to_json()). The verb "cancel" with args {"id": N} sets that request's cancelled event at
once, also while it runs. When standard input closes the worker ends, so it never outlives the studio.

`serve` is the worker's side; studio.jobs.worker is the studio's. Requests of one worker run one after the other, in order.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

from studio.core.errors import OutOfMemory, StudioError, WorkerError, from_os_error

ORPHAN_GRACE_S = 10.0


@dataclass
class Call:
    """One request being answered. `emit(event, data)` sends an intermediate event; handlers look at `cancelled` often."""

    id: int
    args: dict[str, Any]
    emit: Callable[[str, Any], None]
    cancelled: threading.Event = field(default_factory=threading.Event)


Handler = Callable[[Call], Any]


def serve(handlers: dict[str, Handler], source: TextIO | None = None) -> None:
    """Answer requests until the studio closes the pipe. What libraries print goes to standard error, never into the protocol."""
    write = _claim_stdout()
    waiting: queue.Queue[tuple[str, Call] | None] = queue.Queue()
    calls: dict[int, Call] = {}

    def read() -> None:
        for line in source or sys.stdin:
            request = json.loads(line)
            call_id, args = int(request["id"]), dict(request.get("args") or {})
            if request["verb"] == "cancel":
                if args.get("id") in calls:
                    calls[args["id"]].cancelled.set()
                continue
            call = Call(call_id, args, lambda event, data, i=call_id: write({"id": i, "event": event, "data": data}))
            calls[call_id] = call
            waiting.put((str(request["verb"]), call))
        waiting.put(None)
        for call in list(calls.values()):
            call.cancelled.set()
        time.sleep(ORPHAN_GRACE_S)  # the studio is gone, and nobody else would end a handler that looks at nothing
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    write({"id": 0, "event": "ready", "data": {"pid": os.getpid()}})
    while (item := waiting.get()) is not None:
        verb, call = item
        event, data = _answer(handlers, verb, call)
        calls.pop(call.id, None)
        write({"id": call.id, "event": event, "data": data})


def _answer(handlers: dict[str, Handler], verb: str, call: Call) -> tuple[str, Any]:
    if verb not in handlers:
        return "error", WorkerError(f"The worker has no verb {verb!r}.").to_json()
    try:
        return "done", handlers[verb](call)
    except StudioError as error:
        return "error", error.to_json()
    except OSError as error:
        traceback.print_exc()
        return "error", from_os_error(error, verb).to_json()
    except Exception as error:  # noqa: BLE001 - the edge of the process: anything else is a bug, told without ending the worker
        traceback.print_exc()
        return "error", describe_exception(error).to_json()


def describe_exception(error: BaseException) -> StudioError:
    """What an unexpected exception looks like to a person: out of memory is named, anything else is a bug with its text."""
    if isinstance(error, StudioError):
        return error
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return OutOfMemory(
            "There was not enough memory.",
            "Lower the batch size or the maximum length, turn on gradient checkpointing, or hold the base in 4 bits (QLoRA).",
        )
    return WorkerError(f"Something unexpected went wrong: {type(error).__name__}: {error}", "The log has the details.")


def _claim_stdout() -> Callable[[dict[str, Any]], None]:
    """Keep the real standard output for the protocol and point everybody else's prints at standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    lock = threading.Lock()

    def write(message: dict[str, Any]) -> None:
        with lock, contextlib.suppress(BrokenPipeError):
            out.write(json.dumps(message) + "\n")  # ASCII: half a surrogate pair in a row or prompt is no UTF-8
            out.flush()

    return write
