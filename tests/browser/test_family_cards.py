"""What each method adds: folded until asked for, and still open after the form has changed under it."""

from __future__ import annotations

from playwright.sync_api import Page, expect


def test_open_cards_stay_open_while_the_form_changes(page: Page) -> None:
    cards = page.locator("#plan .families article")
    expect(cards).to_have_count(4)
    expect(cards.first).to_be_hidden()
    summary = page.get_by_text("What each method adds to this model")
    summary.click()
    expect(cards.first).to_contain_text("2.442 M parameters")

    page.locator("#field-lora-rank input").first.fill("16")
    page.locator("#field-lora-rank input").first.blur()
    expect(cards.first).to_contain_text("4.884 M parameters")
    expect(cards.first).to_be_visible()

    summary.press("Enter")
    expect(cards.first).to_be_hidden()
    page.locator("#field-lora-rank input").first.fill("8")
    page.locator("#field-lora-rank input").first.blur()
    expect(page.locator("#plan .stat").first).to_contain_text("2.442 M")
    expect(cards.first).to_be_hidden()
