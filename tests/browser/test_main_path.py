"""The whole path a person goes: choose, train, watch it live, reload in the middle, restart the studio in the middle, compare."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import StudioServer

SPEC = {
    "name": "browser run",
    "data": {"source": "starter", "max_rows": 160, "max_held_out_rows": 8},
    "method": {"family": "lora", "rank": 4},
    "training": {"max_steps": 40, "batch_size": 4, "max_length": 160, "eval_every": 20},
}


def field(page: Page, path: str) -> Locator:
    """The input of a setting, by its place in the spec."""
    return page.locator(f"#field-{path.replace('.', '-')}").locator("input, textarea").first


def load_spec(page: Page, folder: Path, spec: dict[str, object]) -> None:
    """Fill the form from a spec.json, as a person would who was given one."""
    file = folder / "spec.json"
    file.write_text(json.dumps(spec))
    page.get_by_role("button", name="As JSON, and from the command line").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Load a spec.json").click()
    chooser.value.set_files(file)
    expect(field(page, "name")).to_have_value(str(spec["name"]))


def test_train_watch_reload_restart_compare(page: Page, browser: Browser, server: StudioServer, tmp_path: Path) -> None:
    load_spec(page, tmp_path, SPEC)
    expect(page.locator("#plan")).to_contain_text("40 steps")
    page.locator("#train-button").click()

    header = page.locator("#run-header")
    expect(header).to_contain_text("browser run", timeout=20_000)
    expect(header.locator(".chip.running")).to_be_visible(timeout=20_000)
    expect(header).to_contain_text(re.compile(r"step [1-9]\d* of 40"), timeout=120_000)
    expect(page.locator("#loss-plot .js-plotly-plot")).to_be_visible()

    page.reload()
    expect(header).to_contain_text(re.compile(r"step [1-9]\d* of 40"), timeout=20_000)

    second = browser.new_context().new_page()
    second.goto(server.url)
    expect(second.locator("#run-header")).to_contain_text("browser run", timeout=20_000)

    server.stop(kill=True)
    server.start()
    page.goto(server.url)
    expect(header).to_contain_text("browser run", timeout=20_000)
    expect(header.locator(".chip.finished")).to_be_visible(timeout=240_000)
    expect(header).to_contain_text("held-out loss")
    second.context.close()

    page.locator("#play-button").click()
    expect(page.locator("#prompt textarea")).to_be_visible()
    page.locator("#ask-button").click()
    panes = page.locator("#panes .pane")
    expect(panes).to_have_count(2, timeout=90_000)
    expect(panes.nth(0)).to_contain_text("tokens/s", timeout=120_000)
    expect(panes.nth(1)).to_contain_text("tokens/s")
    for pane in (panes.nth(0), panes.nth(1)):
        assert len(pane.inner_text()) > 80


def test_bad_input_is_named_and_stays_typed(page: Page) -> None:
    field(page, "training.learning_rate").fill("quick")
    expect(page.locator("#plan .notice.bad")).to_contain_text("training.learning_rate")
    page.locator("#train-button").click()
    expect(page.locator(".toast-body")).to_contain_text("training.learning_rate")
    expect(field(page, "training.learning_rate")).to_have_value("quick")

    field(page, "training.learning_rate").fill("0")
    expect(page.locator("#plan .notice.bad")).to_contain_text("greater than 0")
    field(page, "training.learning_rate").fill("1e-3")
    field(page, "lora.rank").fill("5000")
    expect(page.locator("#plan .notice.bad")).to_contain_text("method.rank")
    field(page, "lora.rank").fill("8")
    expect(page.locator("#plan .stats")).to_be_visible()
    expect(field(page, "training.learning_rate")).to_have_value("1e-3")


def test_dataset_is_shown_as_the_model_sees_it(page: Page) -> None:
    page.locator("#look-button").click()
    preview = page.locator("#data-preview")
    expect(preview).to_contain_text("to train on", timeout=60_000)
    expect(preview.locator(".tokens .trained").first).to_be_visible()
    assert "```python" in preview.locator(".tokens .trained").all_inner_texts()[0] + preview.locator(".tokens").inner_text()


def test_the_plan_follows_a_look_at_the_data(page: Page, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "Say {n}.", "completion": "The word {n}."}}\n' for n in range(20)), encoding="utf-8")
    box = page.locator("#dataset input")
    box.fill(str(rows))
    box.press("Enter")
    plan = page.locator("#plan")
    expect(plan).to_contain_text("the data have not been read yet", timeout=30_000)
    page.locator("#look-button").click()
    expect(plan).to_contain_text("18 rows of", timeout=60_000)
    expect(plan).to_contain_text("(measured)")
    rows.write_text("no JSON\n", encoding="utf-8")
    page.locator("#look-button").click()
    expect(plan.locator(".notice.bad")).to_contain_text("The dataset cannot be used like this.", timeout=60_000)
    expect(plan).not_to_contain_text("It fits.")


def test_lecture_plan_shows_without_a_hub(page: Page) -> None:
    page.get_by_label("Start from").click()
    page.get_by_role("option", name="lecture").click()
    expect(page.locator("#plan")).to_contain_text("0.0689 %", timeout=30_000)
    expect(page.locator("#plan")).to_contain_text("851,968")


def test_the_form_stands_as_it_was_left_after_a_reload(page: Page) -> None:
    page.locator(".method-cards label", has_text="Prefix").click()
    field(page, "prefix.virtual_tokens").fill("7")
    field(page, "training.learning_rate").fill("quick")
    expect(page.locator("#plan .notice.bad")).to_contain_text("training.learning_rate")
    page.reload()
    expect(field(page, "prefix.virtual_tokens")).to_have_value("7")
    expect(field(page, "training.learning_rate")).to_have_value("quick")
    expect(page.locator("#plan .notice.bad")).to_contain_text("training.learning_rate")
    expect(page.locator("#field-lora-rank")).to_be_hidden()
    expect(page.locator("#start-from input")).to_have_value("quickstart (changed)")
