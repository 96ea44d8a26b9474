"""A real studio in a process of its own and a real Chromium. Neither is skipped: a machine that cannot have them fails these tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.play.conftest import lively_llama, make_adapter  # noqa: F401 (fixtures)

REPOSITORY = Path(__file__).resolve().parents[2]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(600))


class StudioServer:
    """`python -m studio serve` on a free port of the loopback, for one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        self.was_killed = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "studio", "serve", "--no-browser", "--port", str(self.port), "--home", str(self.home)]
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log, env={**os.environ, "GOMP_SPINCOUNT": "0"})
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(self.url, timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None, (self.home / "server.log").read_text()
                time.sleep(0.2)
        raise AssertionError(f"The studio did not answer: {(self.home / 'server.log').read_text()}")

    def stop(self, *, kill: bool = False) -> None:
        if self.process is not None:
            self.was_killed = self.was_killed or kill
            self.process.kill() if kill else self.process.terminate()
            self.process.wait(30)
            self.process = None


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("google-chrome") or "/usr/bin/chromium"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def browser_home(tmp_path_factory: pytest.TempPathFactory, starter_model: Path) -> Path:
    """A home with the starter model and data and no runs. The data is built in the user's home, once, and copied."""
    from studio.core.paths import StudioHome
    from studio.data.starter import ensure_starter_data

    built = ensure_starter_data(StudioHome.find(starter_model.parents[1]), print)
    home = StudioHome.find(tmp_path_factory.mktemp("browser-home"))
    home.models.mkdir(parents=True, exist_ok=True)
    home.starter_model.symlink_to(starter_model, target_is_directory=True)
    shutil.copytree(built.parent, home.data)
    return home.root


@pytest.fixture
def server(browser_home: Path) -> Iterator[StudioServer]:
    studio = StudioServer(browser_home)
    studio.start()
    yield studio
    studio.stop()


@pytest.fixture(scope="module")
def tiny_server(tmp_path_factory: pytest.TempPathFactory, lively_llama: Path, make_adapter: Callable[..., Path]) -> Iterator[StudioServer]:  # noqa: F811
    """One studio for a whole file, with two finished runs on a tiny model, 'early' and 'tuned'. The newer, 'tuned', is picked at first."""
    from studio.core.paths import StudioHome
    from tests.browser.playground import plant_run

    home = StudioHome.find(tmp_path_factory.mktemp("tiny-home"))
    plant_run(home, "early", lively_llama, make_adapter("lora", 2), day=1)
    plant_run(home, "tuned", lively_llama, make_adapter("lora", 1), day=2)
    studio = StudioServer(home.root)
    studio.start()
    yield studio
    studio.stop()


@pytest.fixture
def playground(browser: Browser, tiny_server: StudioServer) -> Iterator[Any]:
    """A new person's Playground. Errors on the browser's console fail the test."""
    from tests.browser.playground import Playground

    opened = Playground(browser, tiny_server)
    yield opened
    opened.close()


@pytest.fixture
def page(browser: Browser, server: StudioServer) -> Iterator[Page]:
    """The studio's page, open. Errors on the browser's console, and requests to anywhere else, fail the test."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    troubles: list[str] = []
    watch(opened, server, troubles)
    opened.goto(server.url)
    opened.wait_for_load_state("networkidle")
    yield opened
    kept = opened.evaluate("[...Object.keys(localStorage), ...Object.keys(sessionStorage)]")
    context.close()
    assert troubles == []
    assert [key for key in kept if not key.startswith("peft-studio")] == []  # gradio's own history of all events grows with every click


# What Chromium and gradio's client say when a server dies under them: a stream cut in the middle, a request without an answer.
CUT_OFF = ("network error", "Connection errored out", "Failed to fetch", "ERR_", "Failed to load resource")


def watch(page: Page, server: StudioServer, troubles: list[str]) -> None:
    """Note the page's errors and its requests that leave the studio. A lost connection is no trouble where the test killed the studio."""

    def on_error(said: str) -> None:
        if not (server.was_killed and any(words in said for words in CUT_OFF)):
            troubles.append(said)

    def on_request(request: Any) -> None:
        if not request.url.startswith((server.url, "data:", "blob:")):
            troubles.append(f"asks outside: {request.url}")

    page.on("console", lambda message: on_error(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: on_error(str(error)))
    page.on("request", on_request)
