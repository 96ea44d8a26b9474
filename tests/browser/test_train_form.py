"""The Train tab's form under a person's hands, without a run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import StudioServer, watch


@pytest.fixture
def form(browser: Browser, tiny_server: StudioServer) -> Iterator[Page]:
    """A new person's Train tab. Errors on the browser's console fail the test."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    troubles: list[str] = []
    watch(page, tiny_server, troubles)
    page.goto(tiny_server.url)
    expect(page.locator("#plan .notice")).to_be_visible(timeout=60_000)
    yield page
    context.close()
    assert troubles == []


def field(page: Page, path: str) -> Locator:
    return page.locator(f"#field-{path.replace('.', '-')}").locator("input, textarea").first


def choose_dataset(page: Page, path: Path) -> None:
    box = page.locator("#dataset input")
    box.fill(str(path))
    box.press("Enter")


def test_broken_rows_are_named_and_can_be_left_out(form: Page, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "Say {n}.", "completion": "Word {n}."}}\n' for n in range(20)) + "{broken\n" * 3)
    choose_dataset(form, rows)
    form.locator("#look-button").click()
    preview = form.locator("#data-preview")
    expect(preview.locator(".notice.bad")).to_contain_text("rows.jsonl, line 21 is not valid JSON", timeout=60_000)
    leave_out = form.get_by_role("button", name="Leave these 3 rows out")
    leave_out.click()
    expect(preview.locator(".stat", has_text="broken")).to_contain_text("3", timeout=60_000)
    expect(leave_out).to_be_hidden()
    form.get_by_role("button", name="As JSON, and from the command line").click()
    expect(form.locator("#spec-json pre")).to_contain_text('"broken_rows": "leave_out"')


def test_what_the_preset_chose_for_its_dataset_follows_another(form: Page, tmp_path: Path) -> None:
    prompts = field(form, "training.sample_prompts")
    expect(prompts).to_have_value(re.compile("`is_palindrome`\\.\n\nReturn True .*\n---\nWrite a", re.DOTALL))
    rows = tmp_path / "sayings.jsonl"
    rows.write_text("".join(f'{{"prompt": "Say {n}.", "completion": "Word {n}."}}\n' for n in range(30)))
    choose_dataset(form, rows)
    expect(form.locator("#followed")).to_contain_text("Sample prompts")
    form.get_by_role("button", name="Format, columns and what is held out").click()
    for path, value in (("training.sample_prompts", ""), ("name", ""), ("data.max_rows", "0")):
        expect(field(form, path)).to_have_value(value)
    expect(form.locator("#start-from input")).to_have_value("quickstart (changed)")
    form.locator("#look-button").click()
    expect(prompts).to_have_value(re.compile(r"^Say \d+\.\n---\nSay \d+\.\n---\nSay \d+\.$"), timeout=60_000)
    form.locator("#start-from input").click()
    form.get_by_role("option", name="quickstart", exact=True).click()
    expect(form.locator("#start-from input")).to_have_value("quickstart")
    expect(field(form, "name")).to_have_value("quickstart")
    expect(form.locator("#followed .notice")).to_have_count(0)
