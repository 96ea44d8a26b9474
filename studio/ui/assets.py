"""Gradio's own scripts and style sheets, answered from memory and kept by the browser.

A page is some eighty small files. Gradio compresses each anew for every visitor and asks the browser to come back for all of them; their
names hold a hash of their content, so one compression a file is enough, and a browser that has one never needs to ask again.
"""

from __future__ import annotations

import functools
from pathlib import Path

import brotli
from gradio.routes import BUILD_PATH_LIB
from starlette.types import ASGIApp, Receive, Scope, Send

FOLDER = Path(BUILD_PATH_LIB)
PREFIX = "/assets/"
TYPES = {".js": b"text/javascript; charset=utf-8", ".css": b"text/css; charset=utf-8"}


class KeptAssets:
    """ASGI middleware. What is no file of gradio's build, or is asked for without Brotli, goes on to gradio."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _find(scope)
        if found is None:
            await self.app(scope, receive, send)
            return
        body, media_type = found
        headers = [
            (b"content-type", media_type),
            (b"content-encoding", b"br"),
            (b"content-length", str(len(body)).encode()),
            (b"vary", b"Accept-Encoding"),
            (b"cache-control", b"public, max-age=31536000, immutable"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _find(scope: Scope) -> tuple[bytes, bytes] | None:
    if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith(PREFIX):
        return None
    name = scope["path"].removeprefix(PREFIX)
    if name not in _names() or not any(name == b"accept-encoding" and b"br" in value for name, value in scope["headers"]):
        return None
    return _compressed(name), TYPES[Path(name).suffix]


@functools.cache
def _names() -> frozenset[str]:
    """The files that may be named; so no path leads out of the folder."""
    return frozenset(path.name for path in FOLDER.iterdir() if path.suffix in TYPES and path.is_file())


@functools.cache
def _compressed(name: str) -> bytes:
    return brotli.compress((FOLDER / name).read_bytes(), quality=5)
