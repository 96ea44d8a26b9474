"""The Train tab's form under a person's hands, without a run."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import StudioServer, watch


@pytest.fixture
def form(browser: Browser, tiny_server: StudioServer, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A new person's Train tab, in the colour scheme of the test's parameter. Errors on the browser's console fail the test."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme=getattr(request, "param", "light"))
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


def sayings(path: Path) -> Path:
    """A dataset of thirty rows."""
    path.write_text("".join(f'{{"prompt": "Say {n}.", "completion": "Word {n}."}}\n' for n in range(30)))
    return path


@contextlib.contextmanager
def held_up(server: StudioServer) -> Iterator[None]:
    """Within it the process that reads data stands still, as if the data came from afar."""
    assert server.process
    children = psutil.Process(server.process.pid).children()
    reader = next(child for child in children if "studio.data" in child.cmdline())
    reader.suspend()
    try:
        yield
    finally:
        reader.resume()


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
    choose_dataset(form, sayings(tmp_path / "other.jsonl"))
    expect(form.locator("#spec-json pre")).not_to_contain_text('"leave_out"')


def test_broken_rows_of_one_dataset_are_not_left_out_of_another(form: Page, tiny_server: StudioServer, tmp_path: Path) -> None:
    rows = sayings(tmp_path / "rows.jsonl")
    rows.write_text(rows.read_text() + "{broken\n")
    choose_dataset(form, rows)
    form.locator("#look-button").click()
    leave_out, preview = form.get_by_role("button", name="Leave this row out"), form.locator("#data-preview")
    expect(leave_out).to_be_visible(timeout=60_000)
    with held_up(tiny_server):
        leave_out.click()
        choose_dataset(form, sayings(tmp_path / "other.jsonl"))
        expect(preview.locator(".stat, .notice")).to_have_count(0)
    form.get_by_role("button", name="As JSON, and from the command line").click()
    expect(form.locator("#looked-at textarea")).to_have_value("", timeout=60_000)
    expect(form.locator("#spec-json pre")).to_contain_text("other.jsonl")
    expect(form.locator("#spec-json pre")).not_to_contain_text('"leave_out"')

    choose_dataset(form, rows)
    form.locator("#look-button").click()
    expect(leave_out).to_be_visible(timeout=60_000)
    form.locator("#start-from input").click()
    form.get_by_role("option", name="quickstart", exact=True).click()
    expect(leave_out).to_be_hidden()
    expect(preview.locator(".stat, .notice")).to_have_count(0)


def test_what_the_preset_chose_for_its_dataset_follows_another(form: Page, tmp_path: Path) -> None:
    prompts = field(form, "training.sample_prompts")
    expect(prompts).to_have_value(re.compile("`is_palindrome`\\.\n\nReturn True .*\n---\nWrite a", re.DOTALL))
    choose_dataset(form, sayings(tmp_path / "sayings.jsonl"))
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


def test_a_look_that_ends_late_undoes_nothing(form: Page, tiny_server: StudioServer, tmp_path: Path) -> None:
    """What was lost: sample prompts typed while the data were read; and another dataset, chosen meanwhile, got the first one's."""
    prompts, looked_at, preview = field(form, "training.sample_prompts"), form.locator("#looked-at textarea"), form.locator("#data-preview")
    early, late = sayings(tmp_path / "early.jsonl"), sayings(tmp_path / "late.jsonl")
    choose_dataset(form, early)
    expect(prompts).to_have_value("")
    form.get_by_role("button", name="Format, columns and what is held out").click()
    form.locator("#look-button").click()
    expect(prompts).to_have_value(re.compile("Say"), timeout=60_000)
    form.locator("#start-from input").click()
    form.get_by_role("option", name="quickstart", exact=True).click()
    expect(prompts).to_have_value(re.compile("palindrome"))

    choose_dataset(form, late)
    expect(prompts).to_have_value("")
    with held_up(tiny_server):
        form.locator("#look-button").click()
        prompts.fill("My own.")
    expect(looked_at).to_have_value(re.compile("late"), timeout=60_000)
    expect(preview.locator(".stat").first).to_be_visible()
    with held_up(tiny_server):
        form.locator("#look-button").click()
        choose_dataset(form, early)
        expect(preview.locator(".stat")).to_have_count(0)
    expect(looked_at).to_have_value("", timeout=60_000)
    expect(preview.locator(".stat")).to_have_count(0)
    form.locator("#look-button").click()
    expect(looked_at).to_have_value(re.compile("early"), timeout=60_000)
    expect(prompts).to_have_value("My own.")


def test_a_base_is_calibrated_by_its_button_and_chosen_unless_another_is(form: Page, tiny_llama: Path, tmp_path: Path) -> None:
    choose_dataset(form, sayings(tmp_path / "sayings.jsonl"))
    model, told, other = form.locator("#base-model input"), form.locator("#calibration"), tmp_path / "other"
    form.get_by_role("radio", name="QLoRA").click()
    for source, changed in ((tiny_llama, ""), (shutil.copytree(tiny_llama, other), "Qwen2.5 0.5B Instruct (hub)")):
        model.fill(str(source))
        model.press("Enter")
        form.locator("#calibrate-button").click()
        if changed:
            expect(told.locator(".progress")).to_be_visible(timeout=60_000)
            model.fill("Qwen/Qwen2.5-0.5B-Instruct")
            model.press("Enter")
        expect(told.locator(".stat").last).to_contain_text("%", timeout=120_000)
        expect(told.locator(".stat")).to_have_count(3)
        expect(model).to_have_value(changed or f"{source.name}-calibrated (on disk)")
        model.click()
        expect(form.get_by_role("option", name=f"{source.name}-calibrated (on disk)")).to_be_visible()
        model.press("Escape")


def test_a_form_filled_from_a_file_is_no_changed_preset(form: Page, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text('{"name": "given", "method": {"family": "lora", "rank": 3}, "training": {"max_steps": 7}}')
    form.get_by_role("button", name="As JSON, and from the command line").click()
    with form.expect_file_chooser() as chooser:
        form.get_by_role("button", name="Load a spec.json").click()
    chooser.value.set_files(spec)
    expect(form.locator("#plan .stats")).to_contain_text("7 steps", timeout=30_000)
    expect(form.locator("#spec-json pre")).to_contain_text('"rank": 3')
    expect(form.locator("#start-from input")).to_have_value("")


def test_verdict_and_button_are_in_sight_wherever_one_is(form: Page) -> None:
    for width, height in ((1440, 900), (390, 844)):
        form.set_viewport_size({"width": width, "height": height})
        for place in (0, 500, 1_000_000):
            form.evaluate("place => window.scrollTo(0, place)", place)
            expect(form.locator("#train-button")).to_be_in_viewport(ratio=1)
            expect(form.locator("#verdict")).to_be_in_viewport(ratio=1)
    field(form, "training.learning_rate").fill("quick")
    expect(form.locator("#verdict")).to_contain_text(re.compile(r"This cannot run yet\.\s*training\.learning_rate"))


def test_on_a_phone_every_tab_is_in_the_bar(form: Page) -> None:
    """Gradio would put those that do not fit into a menu of three dots."""
    tabs = form.locator("[role=tablist]").first.get_by_role("tab")
    for width in (390, 320):
        form.set_viewport_size({"width": width, "height": 844})
        expect(tabs).to_have_text(["Train", "Runs", "Playground", "Quantization", "Rank"])
        tabs.last.scroll_into_view_if_needed()
        expect(tabs.last).to_be_in_viewport(ratio=1)
        assert form.evaluate("document.documentElement.scrollWidth <= innerWidth")  # the bar scrolls, not the page
    tabs.first.scroll_into_view_if_needed()
    expect(tabs.first).to_be_in_viewport(ratio=1)


def test_the_boxes_of_a_row_stand_on_one_line(form: Page) -> None:
    for paths in (("lora.rank", "lora.alpha", "lora.targets"), ("training.epochs", "training.learning_rate", "training.batch_size")):
        blocks = [form.locator(f"#field-{path.replace('.', '-')}") for path in paths]
        boxes = [block.locator(".wrap:has(> .wrap-inner), .input-container, input[type=number]").first.bounding_box() for block in blocks]
        for edge in ([box["y"] for box in boxes], [box["y"] + box["height"] for box in boxes]):
            assert max(edge) - min(edge) <= 2, (paths, boxes)


CONTRAST = """() => {
  const parse = text => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3]));
  const light = ink => { const [r, g, b] = ink.map(v => v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = element => { const layers = [];
    for (let at = element; at; at = at.parentElement) { layers.push(parse(getComputedStyle(at).backgroundColor)); }
    return layers.reduceRight((under, top) => over(top, under), [255, 255, 255]); };
  const poor = [];
  for (const element of document.querySelectorAll('.gradio-container *')) {
    const text = [...element.childNodes].filter(node => node.nodeType === 3).map(node => node.data.trim()).join('');
    if (!text || !element.checkVisibility() || element.closest('svg, .stacked')) continue;
    const under = ground(element), ink = over(parse(getComputedStyle(element).color), under);
    const [a, b] = [light(ink), light(under)].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(`${text.slice(0, 40)}: ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
  }
  return poor;
}"""
"""Texts whose contrast with what is behind them is below WCAG's 4.5 to 1, by its own formula for relative luminance."""


@pytest.mark.parametrize("form", ["light", "dark"], indirect=True)
def test_every_text_stands_out_from_its_ground(form: Page) -> None:
    form.locator(".families summary").click()
    form.get_by_role("button", name="Everything else").click()
    expect(field(form, "training.max_steps")).to_be_visible()
    assert form.evaluate(CONTRAST) == []


def test_of_errors_the_newest_is_shown_and_goes_ten_seconds_later(form: Page) -> None:
    form.clock.install()
    messages = form.locator(".toast-message-item").locator("visible=true")
    for typed in ("quick", "quicker"):
        field(form, "training.learning_rate").fill(typed)
        form.locator("#train-button").click()
        expect(messages).to_have_count(1)
        expect(messages).to_contain_text(f"(got '{typed}')")
        form.clock.fast_forward(6_000)
    expect(messages).to_contain_text("(got 'quicker')")
    form.mouse.move(5, 5)
    form.clock.fast_forward(5_000)
    expect(messages).to_have_count(0)
