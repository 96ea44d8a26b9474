"""The laboratories in a real browser: a model measured, a cell pressed, a spectrum followed over training, sums done by hand."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect
from safetensors.torch import save_file

from studio.core.paths import StudioHome
from studio.core.spec import RunSpec
from tests.browser.conftest import StudioServer

MODULES = ("self_attn.q_proj", "self_attn.v_proj")
RUN = "20260101-000000-planted"


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).locator("visible=true").first.click()


def write_adapter(folder: Path, rank: int, size: float) -> None:
    """LoRA of r = 8 on two layers of the starter model whose update has exactly `rank` equal directions of the size given."""
    tensors = {}
    for layer in (0, 1):
        for module, out in zip(MODULES, (576, 192), strict=True):
            name = f"base_model.model.model.layers.{layer}.{module}"
            a, b = torch.zeros(8, 576), torch.zeros(out, 8)
            for index in range(rank):
                a[index, index], b[index, index] = 1.0, size
            tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = a, b
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "base_model_name_or_path": "starter"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.fixture
def planted_run(browser_home: Path) -> str:
    """A finished run whose update had no direction at step 0, one at step 10, and three in the end."""
    paths = StudioHome.find(browser_home).root / "runs" / RUN
    if not paths.exists():
        paths.mkdir()
        (paths / "spec.json").write_text(json.dumps(RunSpec.parse({"name": "planted"}).to_json()))
        (paths / "result.json").write_text(json.dumps({"status": "finished", "steps": 20}))
        for step, rank in ((0, 0), (10, 1), (20, 3)):
            write_adapter(paths / "snapshots" / f"step-{step:06d}", rank, 0.5)
        write_adapter(paths / "adapter", 3, 0.5)
    return RUN


def test_a_model_is_measured_and_a_cell_leads_to_its_module(page: Page, server: StudioServer, tmp_path: Path) -> None:
    tab(page, "Quantization")
    cells = page.locator("#quantization-heat button[data-module]")
    expect(cells).to_have_count(210, timeout=120_000)
    expect(page.locator("#quantization-totals")).to_contain_text("4.127")
    expect(page.locator("#weights-histogram .js-plotly-plot")).to_be_visible()
    page.locator("#quantization-heat button[data-module='model.layers.12.self_attn.q_proj']").click()
    expect(page.locator("#quantization-module")).to_contain_text("model.layers.12.self_attn.q_proj")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#quantization-module")).to_contain_text("model.layers.13.self_attn.q_proj")
    page.locator("#quantization-kind label", has_text="INT8").click()
    expect(page.locator("#quantization-heat")).to_contain_text("INT8 signal to noise")
    tab(page, "Train")
    tab(page, "Quantization")
    expect(page.locator("#quantization-module")).to_contain_text("model.layers.13.self_attn.q_proj")
    with page.expect_download() as download:
        page.locator("#code-usage-caption a").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
    assert sum(int(row["weights"]) for row in rows) == 576 * 576
    for kind in ("png", "svg"):
        with page.expect_download() as download:
            page.locator(f"#weights-histogram-caption button[data-format={kind}]").click()
        assert download.value.suggested_filename == f"weights-histogram.{kind}"


def test_a_runs_rank_is_followed_over_its_training(planted_run: str, page: Page) -> None:
    tab(page, "Rank")
    cells = page.locator("#rank-heat button[data-module]")
    expect(cells).to_have_count(4)
    assert cells.all_inner_texts() == ["3.0"] * 4
    expect(page.locator("#rank-summary")).to_contain_text("r = 4 may be enough")
    expect(page.locator("#rank-summary")).to_contain_text("Hypothesis:")
    step = page.locator("#rank-step input[type=number]")
    for value, rank in (("10", "1.0"), ("0", "0.0")):
        step.fill(value)
        step.press("Enter")
        expect(cells.first).to_have_text(rank)
    expect(page.locator("#singular-values")).to_contain_text("exactly zero")
    page.locator("#inside-button").click()
    expect(page.locator("#rank-inside")).to_contain_text("Amplification")


def test_a_run_that_went_on_is_drawn_anew_on_the_next_visit(planted_run: str, page: Page, browser_home: Path) -> None:
    adapter = StudioHome.find(browser_home).root / "runs" / RUN / "adapter"
    tab(page, "Rank")
    cells = page.locator("#rank-heat button[data-module]")
    expect(cells.first).to_have_text("3.0")
    for rank in (2, 3):  # and back, for the tests that follow
        shutil.rmtree(adapter)
        write_adapter(adapter, rank, 0.5)
        tab(page, "Train")
        tab(page, "Rank")
        expect(cells.first).to_have_text(f"{rank}.0")


def test_what_is_typed_by_hand_is_worked_out_and_nonsense_is_refused_in_words(page: Page) -> None:
    tab(page, "Quantization")
    tab(page, "By hand")
    page.locator("#hand-book label", has_text="The lecture's").click()
    expect(page.locator("#hand-steps")).to_contain_text("Two codes printed in the lecture are not the nearest levels.")
    tab(page, "Rank")
    tab(page, "By hand")
    expect(page.locator("#hand-reduction")).to_contain_text("R1 - 2·R3")
    expect(page.locator("#low-rank-picture img")).to_have_count(2)
    matrix = page.locator("#hand-matrix textarea")
    matrix.fill("1 a\n2 3")
    page.locator("#hand-reduce").click()
    expect(page.locator("#hand-reduction")).to_contain_text("'a' is not a number.")
    expect(page.locator("#hand-reduction")).not_to_contain_text("R1")
    matrix.fill("1 1/2\n2 1")
    page.locator("#hand-reduce").click()
    expect(page.locator("#hand-reduction")).to_contain_text(re.compile(r"Rank\s*1"))
    page.locator("#neuron-rank input[type=number]").fill("25")
    page.locator("#neuron-rank input[type=number]").press("Enter")
    expect(page.locator("#neurons circle.independent")).to_have_count(25)


def test_the_laboratories_fit_a_phone(planted_run: str, page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.reload()  # on a phone the page is laid out narrow from the start; a resize moves tabs into the menu a moment later
    page.wait_for_load_state("networkidle")
    for name, heat in (("Quantization", "#quantization-heat"), ("Rank", "#rank-heat")):
        if not page.get_by_role("tab", name=name, exact=True).locator("visible=true").count():
            page.locator(".overflow-menu > button").first.click()
            page.locator(".overflow-dropdown button", has_text=name).click()
        else:
            tab(page, name)
        expect(page.locator(f"{heat} button[data-module]").first).to_be_visible(timeout=120_000)
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
