"""A model hub on the loopback, as much of it as an upload needs: repositories, preupload, large files (git LFS), commits.

Written after the hub's HTTP interface as huggingface_hub calls it. Whatever it does not know is answered with 404 and noted in
`unknown`. Every call needs the token, but for the upload of a large file, whose address is its own permission, as with the real hub.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_secretOfTheTest"


class FakeHub:
    """What was uploaded: `repositories` by name with their privacy, `files` by repository and path."""

    def __init__(self) -> None:
        self.repositories: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.commits: list[str] = []
        self.unknown: list[str] = []
        self.url = ""

    def answer(self, method: str, path: str, body: bytes) -> dict[str, Any] | None:
        """The answer's JSON, or None where there is no such place."""
        parts = path.split("?")[0].strip("/").split("/")
        if (method, parts) == ("POST", ["api", "repos", "create"]):
            return self._create(json.loads(body))
        if (method, parts) == ("POST", ["api", "validate-yaml"]):
            return {"errors": [], "warnings": []}
        if method == "POST" and parts[:2] == ["api", "models"] and len(parts) == 6 and "/".join(parts[2:4]) in self.repositories:
            return {"preupload": self._preupload, "commit": self._commit}[parts[4]]("/".join(parts[2:4]), body)
        if method == "POST" and parts[2:] == ["info", "lfs", "objects", "batch"]:
            return self._batch(json.loads(body))
        if method == "PUT" and parts[0] == "large":
            assert hashlib.sha256(body).hexdigest() == parts[1]
            self.large[parts[1]] = body
            return {}
        self.unknown.append(f"{method} {path}")
        return None

    def _create(self, wanted: dict[str, Any]) -> dict[str, Any]:
        name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
        self.repositories.setdefault(name, wanted.get("visibility") == "private")
        self.files.setdefault(name, {})
        return {"url": f"{self.url}/{name}", "name": name}

    def _preupload(self, _: str, body: bytes) -> dict[str, Any]:
        """As the hub decides it: tensors are large files, text is part of the commit."""
        modes = [(file["path"], "lfs" if file["path"].endswith(".safetensors") else "regular") for file in json.loads(body)["files"]]
        return {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes]}

    def _batch(self, wanted: dict[str, Any]) -> dict[str, Any]:
        objects = [{**item, "actions": {"upload": {"href": f"{self.url}/large/{item['oid']}"}}} for item in wanted["objects"]]
        return {"transfer": "basic", "objects": objects}

    def _commit(self, name: str, body: bytes) -> dict[str, Any]:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.commits.append(value["summary"])
            elif line["key"] == "file":
                self.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[name][value["path"]] = self.large[value["oid"]]
        return {"commitUrl": f"{self.url}/{name}/commit/1", "commitOid": "1" * 40, "success": True}


@contextlib.contextmanager
def serve_hub() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self._read()
            allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}" or self.path.startswith("/large/")
            found = hub.answer(self.command, self.path, body) if allowed else {"error": "no permission"}
            answer = json.dumps(found or {}).encode()
            self.send_response(401 if not allowed else 404 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer if self.command != "HEAD" else b"")

        def _read(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        do_GET = do_HEAD = do_POST = do_PUT = _handle

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
