"""A model hub on this machine: the few answers of the real one's protocol that its client needs to fetch a model's files."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0" * 39 + "1"


class Hub:
    """Serves `folder` as someone/tiny, refuses someone/gated, knows nothing else. `tokens` collects what callers said they were."""

    def __init__(self, folder: Path) -> None:
        self.tokens: set[str | None] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self, folder, body=False)

            def do_GET(self) -> None:
                hub.answer(self, folder, body=True)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler, folder: Path, body: bool) -> None:
        self.tokens.add(request.headers.get("Authorization"))
        path = request.path.split("?")[0].removeprefix("/api/models")
        name = path.rpartition(f"/resolve/{COMMIT}/")[2] if COMMIT in path else path.rpartition("/resolve/main/")[2]
        file = folder / name
        if path.startswith("/someone/gated"):
            self.send(request, 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}, b"", body)
        elif not path.startswith("/someone/tiny"):
            self.send(request, 404, {"X-Error-Code": "RepoNotFound"}, b"", body)
        elif "/resolve/" not in path or not file.is_file():
            self.send(request, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b"", body)
        else:
            content = file.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.send(request, 200, {"ETag": etag, "X-Repo-Commit": COMMIT}, content, body)

    def send(self, request: BaseHTTPRequestHandler, code: int, headers: dict[str, str], content: bytes, body: bool) -> None:
        request.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            request.send_header(name, value)
        request.end_headers()
        if body:
            request.wfile.write(content)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hub(tiny_llama: Path) -> Iterator[Hub]:
    running = Hub(tiny_llama)
    yield running
    running.server.server_close()
