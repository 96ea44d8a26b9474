"""Gradio's own scripts and style sheets, and plotly's script, answered from memory and kept by the browser.

A page is some eighty small files. Gradio compresses each anew for every visitor and asks the browser to come back for all of them; their
names hold a hash of their content, so one compression a file is enough, and a browser that has one never needs to ask again.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from pathlib import Path

import brotli
from gradio.routes import BUILD_PATH_LIB
from starlette.types import ASGIApp, Receive, Scope, Send

FOLDER = Path(BUILD_PATH_LIB)
PREFIX = "/assets/"
TYPES = {".js": b"text/javascript; charset=utf-8", ".css": b"text/css; charset=utf-8"}
PLOTLY_NAME = f"plotly-{importlib.metadata.version('plotly')}.min.js"
PLOTLY_SCRIPT = f"assets/{PLOTLY_NAME}"
"""Where the page finds plotly.js, as it comes with plotly for Python."""


class KeptAssets:
    """ASGI middleware. What is none of these files goes on to gradio, and so do gradio's own where the browser takes no Brotli."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = _asked(scope)
        brotli_taken = name is not None and _takes_brotli(scope)
        if name is None or not (brotli_taken or name == PLOTLY_NAME):
            await self.app(scope, receive, send)
            return
        body = _compressed(name) if brotli_taken else _files()[name].read_bytes()
        headers = [
            (b"content-type", TYPES[Path(name).suffix]),
            *([(b"content-encoding", b"br")] if brotli_taken else []),
            (b"content-length", str(len(body)).encode()),
            (b"vary", b"Accept-Encoding"),
            (b"cache-control", b"public, max-age=31536000, immutable"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _asked(scope: Scope) -> str | None:
    """The name of the file that is asked for, if it is one of these."""
    if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith(PREFIX):
        return None
    name = scope["path"].removeprefix(PREFIX)
    return name if name in _files() else None


def _takes_brotli(scope: Scope) -> bool:
    return any(name == b"accept-encoding" and b"br" in value for name, value in scope["headers"])


@functools.cache
def _files() -> dict[str, Path]:
    """The files that may be named; so no path leads out of their folders."""
    files = {path.name: path for path in FOLDER.iterdir() if path.suffix in TYPES and path.is_file()}
    found = importlib.util.find_spec("plotly")  # found, not imported: that takes half a second and draws nothing
    assert found is not None and found.origin is not None
    return {**files, PLOTLY_NAME: Path(found.origin).parent / "package_data" / "plotly.min.js"}


@functools.cache
def _compressed(name: str) -> bytes:
    return brotli.compress(_files()[name].read_bytes(), quality=5)
