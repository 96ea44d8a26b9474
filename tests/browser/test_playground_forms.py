"""The Playground's switches on one page: the base beside itself held in another way, code formatted or as written, a toast's title."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from studio.ui.conversation import Conversation, Pane, Turn
from tests.browser.conftest import StudioServer
from tests.browser.playground import ANSWERED, Playground

WRITTEN, FORMATTED = "x = {'a':1}", 'x = {"a": 1}'


@pytest.fixture(scope="module")
def opened(browser: Browser, tiny_server: StudioServer) -> Iterator[Playground]:
    """One person's page for the whole file."""
    playground = Playground(browser, tiny_server)
    playground.open("System prompt, sampling, strength")
    playground.set_number("New tokens at most", 6)
    yield playground
    playground.close()


def hold_also_as(playground: Playground, *names: str) -> None:
    """Pick these and nothing else in 'The same base, also held as'."""
    playground.find("#prompt textarea").click()
    box = playground.find("#play-beside input")
    box.click()  # the list opens as the box is entered
    for _ in range(3):
        box.press("Backspace")
    for name in names:
        playground.page.get_by_role("option", name=name, exact=True).click()
    playground.find("#prompt textarea").click()
    expect(playground.find("#play-beside .token")).to_have_count(len(names))


def test_the_base_stands_beside_itself_held_in_other_ways(opened: Playground):
    hold_also_as(opened, "int8", "4 bits, NF4")
    turn = opened.ask("Count the words in the text.")
    expect(turn.locator(".pane h3")).to_have_text(["Base (not quantized)", "tuned", "Base (int8)", "Base (NF4)"])
    expect(turn.locator(".how").last).to_contain_text("3 copies of the base in memory")
    for held in ("int8", "NF4"):
        expect(opened.find("#play-memory")).to_contain_text(held)


def test_held_in_the_same_way_it_is_refused_under_a_title_that_says_so(opened: Playground):
    opened.find("#new-conversation").click()
    hold_also_as(opened, "bf16 or fp32, as the machine computes")
    opened.type("Count the words in the text.")
    opened.press_answer()
    toast = opened.page.locator(".toast-body.error").last
    expect(toast.locator("b.title")).to_have_text("That did not work", timeout=ANSWERED)
    expect(toast.locator(".toast-title-row")).to_be_hidden()  # gradio's own "Error"
    expect(toast).to_contain_text("The base is held in this way already: not quantized.")
    head, close = toast.locator("b.title").bounding_box(), toast.locator(".toast-close").bounding_box()
    assert head and close and head["x"] + head["width"] <= close["x"] and abs(head["y"] - close["y"]) < 24
    toast.locator(".toast-close").click()
    expect(opened.find("#prompt textarea")).to_have_value("Count the words in the text.")


def test_code_is_shown_formatted_and_as_written_by_a_switch(opened: Playground, tmp_path: Path):
    block = {"code": WRITTEN, "language": "python", "python": True, "first_line": 1, "end_line": 2, "formatted": FORMATTED}
    answer = {"text": f"```python\n{WRITTEN}\n```", "tokens": 9, "seconds": 1.0, "first_token_s": 0.1, "stopped_by": "end of answer",
              "blocks": [block]}  # fmt: skip
    file = tmp_path / "talk.json"
    file.write_text(Conversation(panes=(Pane("base", "Base"),), turns=(Turn("Write x.", {"base": answer}),)).to_json())
    with opened.page.expect_file_chooser() as chooser:
        opened.find("#import-conversation").click()
    chooser.value.set_files(file)
    shown = opened.turns.last.locator(".block pre.code:visible")
    expect(shown).to_have_text(FORMATTED)
    switch = opened.turns.last.get_by_role("button", name="Show as written")
    switch.click()
    expect(shown).to_have_text(WRITTEN)
    back = opened.turns.last.get_by_role("button", name="Show formatted")
    expect(back).to_have_attribute("aria-pressed", "true")
    back.click()
    expect(shown).to_have_text(FORMATTED)
