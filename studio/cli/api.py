"""`serve-api`: a base and a run's adapter behind an OpenAI-compatible endpoint, for other tools on this machine.

GET /v1/models lists them; POST /v1/chat/completions answers, streamed or whole, by the model that `model` names: 'base', or a run's id.
It listens on the loopback address only and reads no key. One model in memory answers one request at a time, in order.

What it takes of a request: model, messages (text), temperature, top_p, seed, max_tokens or max_completion_tokens, stream. Everything
else is ignored, as are tools and images.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from studio.cli.output import say
from studio.core.errors import PlayError, SetupError, StudioError
from studio.core.paths import StudioHome
from studio.core.ports import check_port
from studio.core.protocol import describe_exception
from studio.jobs import store
from studio.jobs.worker import Worker

LOOPBACK = "127.0.0.1"
BASE = "base"
MOST_BODY_BYTES = 4_000_000
LISTEN_S = 10.0
"""How long what is still sent after a refusal is read, and thrown away."""
ROLES = ("system", "user", "assistant")
ROLE_NAMES = {"developer": "system"}
"""What OpenAI calls them of late -> what chat templates know."""
GONE = (BrokenPipeError, ConnectionResetError)
FINISH = {"end of answer": "stop", "you": "stop"}


def add_verbs(verbs: Any) -> None:
    api = verbs.add_parser(
        "serve-api", help="an OpenAI-compatible endpoint for a base and runs' adapters, on this machine only",
        epilog="example: python -m studio serve-api RUN --port 7861, then base_url http://127.0.0.1:7861/v1 and model RUN or base",
    )  # fmt: skip
    api.add_argument("runs", nargs="+", metavar="RUN", help="runs over one base; each answers under its id, the base as 'base'")
    api.add_argument("--port", type=int, default=7861)
    api.set_defaults(verb=run_serve_api)


def run_serve_api(options: argparse.Namespace, home: StudioHome) -> int:
    with contextlib.closing(make_server(home, options.runs, options.port)) as server:
        say(f"http://{LOOPBACK}:{server.server_port}/v1 answers as {', '.join(server.models)}. Ctrl + C ends it.")
        server.serve_forever()
    return 0


class ApiServer(ThreadingHTTPServer):
    """The endpoint with its worker. `models` are the names that answer."""

    daemon_threads = True

    def __init__(self, worker: Worker, load: dict[str, Any], models: list[str], port: int) -> None:
        super().__init__((LOOPBACK, port), Handler)
        self.worker, self.load, self.models = worker, load, models

    def server_close(self) -> None:
        super().server_close()
        self.worker.close(grace_s=1)

    close = server_close


def make_server(home: StudioHome, run_ids: list[str], port: int) -> ApiServer:
    """Load the base and the adapters and bind. Raises RunNotFound, PlayError for runs over different bases, SetupError for the port."""
    check_port(LOOPBACK, port)
    records = [store.read_run(home, run_id) for run_id in run_ids]
    bases = {(record.spec.model.model_dump_json(), record.spec.quantization) for record in records}
    if len(bases) > 1:
        raise PlayError("These runs are over different bases.", "Serve the runs of one base.")
    load = {
        "model": records[0].spec.model.model_dump(mode="json"), "quantization": records[0].spec.quantization,
        "adapters": {record.id: str(record.paths.adapter) for record in records},
    }  # fmt: skip
    worker = Worker("studio.play", home.root / "logs" / "api.log", arguments=["--home", str(home.root)])
    try:
        worker.call("load", **load)
        return ApiServer(worker, load, [BASE, *load["adapters"]], port)
    except OSError as error:
        worker.close()
        raise SetupError(f"Port {port} cannot be used: {error.strerror}.", "Name another with --port.") from error
    except StudioError:
        worker.close()
        raise


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: ApiServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.rstrip("/") == "/v1/models":
            data = [{"id": name, "object": "model", "created": 0, "owned_by": "peft-studio"} for name in self.server.models]
            self._send(200, {"object": "list", "data": data})
        else:
            self._send_error(404, "There is no such address.", "not_found")

    def do_POST(self) -> None:
        with contextlib.suppress(*GONE):
            try:
                self._answer()
            except StudioError as error:
                self._send_error(400, str(error), type(error).__name__)
            except GONE:
                raise
            except Exception as error:  # noqa: BLE001 - the edge of the process: anything else is a bug, told without ending the server
                traceback.print_exc()
                self._send_error(500, str(describe_exception(error)), "server_error")

    def _answer(self) -> None:
        if self._is_too_large():
            return
        body = self._body()
        if self.path.rstrip("/") != "/v1/chat/completions":
            self._send_error(404, "There is no such address.", "not_found")
            return
        asked = self._parse(body)
        gone = ReaderGone(self.connection)
        events = self.server.worker.stream("generate", **question(asked, self.server.models), load=self.server.load, until=gone)
        if asked.get("stream"):
            self._stream(asked["model"], events)
        else:
            self._send(200, completion(asked["model"], list(events)[-1].data))

    def _body(self) -> bytes:
        """What was sent with the request; left unread it would be taken for the next one. Raises PlayError where its length is none."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or not length.strip("0"):
            raise PlayError(f"Content-Length must be a number from 1 to {MOST_BODY_BYTES}.", "Send the request with a JSON body.")
        return self.rfile.read(int(length))

    def _is_too_large(self) -> bool:
        """Answer a request that is larger than is read, and say so."""
        length = self.headers.get("Content-Length", "").lstrip("0")
        if not length.isdecimal() or (len(length) < 10 and int(length) <= MOST_BODY_BYTES):
            return False
        self._send_error(413, f"The request is larger than {MOST_BODY_BYTES:,} bytes. Send a shorter conversation.", "request_too_large")
        return True

    def handle_expect_100(self) -> bool:
        return not self._is_too_large() and super().handle_expect_100()

    def _parse(self, body: bytes) -> dict[str, Any]:
        # A page in a browser can send text to this address without asking; it cannot send this type.
        if "json" not in self.headers.get("Content-Type", ""):
            raise PlayError("The header Content-Type must be application/json.")
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise PlayError("The request's body is no JSON.") from error
        if not isinstance(asked, dict):
            raise PlayError("The request's body is no JSON object.")
        return asked

    def _stream(self, model: str, events: Iterator[Any]) -> None:
        """Server-sent events."""
        name = _new_id()
        with contextlib.closing(events):  # type: ignore[type-var]
            # 'loaded', then 'pass': a request that cannot be answered fails before these, while it can still be told as an error.
            next(events)
            next(events)
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self._chunk(name, model, {"role": "assistant", "content": ""})
            try:
                for event in events:
                    if event.name == "token":
                        self._chunk(name, model, {"content": event.data["text"]})
                    elif event.name == "done":
                        self._chunk(name, model, {}, _finish(event.data["panes"][0]))
            except StudioError as error:  # the status is sent already
                self._event(_described(str(error), type(error).__name__))
            self.wfile.write(b"data: [DONE]\n\n")

    def _chunk(self, name: str, model: str, delta: dict[str, str], finish: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        data = {"id": name, "object": "chat.completion.chunk", "created": int(time.time()), "model": model, "choices": [choice]}
        self._event(data)

    def _event(self, data: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()

    def _send(self, status: int, data: dict[str, Any], *headers: tuple[str, str]) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_error(self, status: int, message: str, kind: str) -> None:
        # Whatever is left of a request that went wrong must not be read as the next one: send_header sets close_connection.
        self._send(status, _described(message, kind), ("Connection", "close"))
        self._listen_out()

    def _listen_out(self) -> None:
        """Read what the client still sends, for a while: closing over unread bytes resets the connection, and the answer is lost."""
        deadline = time.monotonic() + LISTEN_S
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(LISTEN_S)
            while time.monotonic() < deadline and self.connection.recv(65536):
                pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses by itself: an unknown method, a malformed request."""
        self._send_error(code, explain or message or "The request cannot be read.", "invalid_request_error")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: prompts belong to the person."""


class ReaderGone(threading.Event):
    """Set as soon as the other end of `connection` has closed it. What a reader sends meanwhile stays to be read."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self.connection = connection

    def is_set(self) -> bool:
        try:
            readable, _, _ = select.select([self.connection], [], [], 0)
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True


def question(asked: dict[str, Any], models: list[str]) -> dict[str, Any]:
    """The worker's arguments for a request. Raises PlayError naming what is wrong."""
    if asked.get("model") not in models:
        raise PlayError(f"There is no model {asked.get('model')!r}.", f"There are: {', '.join(models)}.")
    messages = asked.get("messages")
    if not isinstance(messages, list) or not all(isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in messages):
        raise PlayError("messages must be a list of turns with role and text content.")
    read = {
        "temperature": asked.get("temperature"), "top_p": asked.get("top_p"), "seed": asked.get("seed"),
        "max_new_tokens": asked.get("max_completion_tokens") or asked.get("max_tokens"),
    }  # fmt: skip
    turns = [{"role": ROLE_NAMES.get(str(turn.get("role")), turn.get("role")), "content": turn["content"]} for turn in messages]
    for turn in turns:
        if turn["role"] not in ROLES:
            raise PlayError(f"There is no role {turn['role']!r}.", f"There are: {', '.join(ROLES)}.")
    if not turns or turns[-1]["role"] != "user":
        raise PlayError("messages must end in a turn of the user.")
    return {"panes": [asked["model"]], "messages": turns, "sampling": {key: value for key, value in read.items() if value is not None}}


def completion(model: str, done: dict[str, Any]) -> dict[str, Any]:
    answer = done["panes"][0]
    choice = {"index": 0, "message": {"role": "assistant", "content": answer["text"]}, "finish_reason": _finish(answer)}
    usage = {"prompt_tokens": answer["prompt_tokens"], "completion_tokens": answer["tokens"]}
    return {
        "id": _new_id(), "object": "chat.completion", "created": int(time.time()), "model": model, "choices": [choice],
        "usage": {**usage, "total_tokens": sum(usage.values())},
    }  # fmt: skip


def _finish(answer: dict[str, Any]) -> str:
    return FINISH.get(answer["stopped_by"], "length")


def _described(message: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
