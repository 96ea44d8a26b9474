"""Whether a model hub can be reached, asked once and quickly.

The hub's client retries an unreachable hub for 23 seconds per file, also where every file is in its cache. So loading asks here first
and, where the answer is no, tells the client to use its cache alone. HF_ENDPOINT (a mirror) and HF_HUB_OFFLINE are respected.
What is not known here: whether the hub has a model, or lets this user have it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from urllib.parse import urlsplit

_REMEMBER_S = 60.0
_PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
_answers: dict[str, tuple[float, bool]] = {}


def is_hub_reachable(timeout_s: float = 4.0) -> bool:
    """Whether the hub's host takes a connection; remembered for a minute. Behind a proxy the answer is yes, unasked."""
    if os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "ON", "YES", "TRUE"):
        return False
    if any(os.environ.get(name) for name in _PROXIES):
        return True
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    asked, answer = _answers.get(endpoint, (-_REMEMBER_S, False))
    if time.monotonic() - asked >= _REMEMBER_S:
        answer = _connects(endpoint, timeout_s)
        _answers[endpoint] = (time.monotonic(), answer)
    return answer


def _connects(endpoint: str, timeout_s: float) -> bool:
    """In a thread of its own, because looking up a name can hang far longer than any timeout of a socket."""
    parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    port = parts.port or (80 if parts.scheme == "http" else 443)
    reached = threading.Event()
    finished = threading.Event()

    def connect() -> None:
        try:
            with socket.create_connection((parts.hostname or "", port), timeout=timeout_s):
                reached.set()
        except OSError:
            pass
        finally:
            finished.set()

    threading.Thread(target=connect, daemon=True).start()
    finished.wait(timeout_s)
    return reached.is_set()
