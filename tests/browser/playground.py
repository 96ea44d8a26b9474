"""A home with a tiny lively model and two finished runs on it, and the Playground's page as a person handles it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect

from studio.core.files import read_json, write_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunResult, RunStatus
from studio.core.spec import RunSpec
from tests.browser.conftest import StudioServer, watch

ANSWERED = 90_000
"""Milliseconds for an answer on a busy machine; the model's process has to start first."""


def plant_run(home: StudioHome, name: str, model: Path, adapter: Path, day: int) -> RunPaths:
    """A finished run `name` whose adapter was trained on `model`; the later the day, the newer."""
    paths = RunPaths(home.runs / f"202601{day:02}-000000-{name}")
    paths.folder.mkdir(parents=True)
    shutil.copytree(adapter, paths.adapter)
    write_json(paths.spec, RunSpec.parse({"name": name, "model": {"id": str(model), "dtype": "float32"}}).to_json())
    result = RunResult(RunStatus.FINISHED, 10, 2.0, 1.0, 1.0, 100, 80, 10.0, 1000, 9000, 10**9, 4000)
    write_json(paths.result, result.to_json())
    return paths


@contextlib.contextmanager
def held_up(home: Path) -> Iterator[None]:
    """Within it the model's process stands still, so that whoever asks stays in line."""
    pid = read_json(StudioHome.find(home).playground)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Playground:
    """The Playground tab of one person's browser. What a person cannot know (whether an answer has ended) is read from the page."""

    def __init__(self, browser: Browser, server: StudioServer, **options: Any) -> None:
        self.context = browser.new_context(**({"viewport": {"width": 1440, "height": 900}} | options))
        self.page: Page = self.context.new_page()
        self.troubles: list[str] = []
        watch(self.page, server, self.troubles)
        self.page.goto(server.url)
        self._open_tab()

    def _open_tab(self) -> None:
        self.page.get_by_role("tab", name="Playground", exact=True).locator("visible=true").first.click()
        expect(self.find("#prompt textarea")).to_be_visible(timeout=20_000)
        expect(self.find("#play-adapters")).to_contain_text("tuned", timeout=20_000)  # what the browser kept is back, or the defaults

    def reload(self) -> None:
        self.page.reload()
        self._open_tab()

    def find(self, selector: str) -> Locator:
        return self.page.locator(selector)

    @property
    def turns(self) -> Locator:
        return self.find("#thread .turn")

    def open(self, title: str) -> None:
        """Open a folded part of the page by its title."""
        self.page.get_by_role("button", name=title).click()

    def type(self, prompt: str) -> None:
        self.find("#prompt textarea").fill(prompt)

    def press_answer(self) -> None:
        self.find("#ask-button").click()

    def ask(self, prompt: str) -> Locator:
        """Ask and wait for the whole turn."""
        before = self.turns.count()
        self.type(prompt)
        self.press_answer()
        expect(self.turns).to_have_count(before + 1, timeout=ANSWERED)
        expect(self.find("#current")).to_be_empty()
        return self.turns.last

    def retry(self, turn: Locator) -> None:
        """Press Retry and wait for the new answer, which is kept with the time it took."""
        before = self.find("#kept-conversation textarea").input_value()
        turn.get_by_role("button", name="Retry").click()
        expect(self.find("#kept-conversation textarea")).not_to_have_value(before, timeout=ANSWERED)

    def set_number(self, label: str, value: float) -> None:
        box = self.page.get_by_label(label, exact=True).first
        box.fill(str(value))
        box.press("Tab")

    def kept(self) -> dict[str, Any]:
        """The conversation as the page holds it."""
        text = self.find("#kept-conversation textarea").input_value()
        return json.loads(text) if text else {}

    def close(self) -> None:
        self.context.close()
        assert self.troubles == []
