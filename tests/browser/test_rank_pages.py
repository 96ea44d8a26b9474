"""The Rank tab's other pages in a real browser: insides, a tuned model, a sweep queued; and what a quantization error does."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from studio.core.paths import StudioHome
from studio.core.records import RunStatus
from studio.core.spec import RunSpec
from studio.jobs import store
from studio.jobs.queue import lock_queue
from studio.ui.rank_sweep import RANKS
from tests.browser.test_labs import planted_run, tab  # noqa: F401  a fixture is found by its name

METHODS = {
    "adapter": {"family": "adapter", "bottleneck": 8},
    "prefix": {"family": "prefix", "virtual_tokens": 4},
}


def choose(page: Page, dropdown: str, value: str) -> None:
    """Type into a dropdown that takes any text, as a person would."""
    box = page.locator(f"{dropdown} input")
    box.fill(value)
    box.press("Enter")
    box.blur()


@pytest.fixture
def inner_runs(browser_home: Path) -> None:
    """A finished run of each family on the starter model: of 30 x 8 units one is dead and all others are always active."""
    from studio.methods import get_method
    from studio.methods.adapters import save_adapter
    from studio.models.load import load_base

    home = StudioHome.find(browser_home)
    for family, settings in METHODS.items():
        paths = home.runs / f"20260102-000000-{family}"
        if paths.exists():
            continue
        spec = RunSpec.parse({"name": f"inner {family}", "method": settings})
        loaded = load_base(spec, home)
        model = get_method(family).attach(loaded.model, spec, loaded.tokenizer)
        for name, parameter in model.named_parameters():
            if "bottleneck_down" in name and name.endswith("bias"):
                parameter.data.fill_(1e6)
                if ".layers.7." in name:
                    parameter.data[3] = -1e6
        save_adapter(model, paths / "adapter", spec)
        (paths / "result.json").write_text(json.dumps({"status": "finished", "steps": 1}))
        (paths / "spec.json").write_text(json.dumps(spec.to_json()))


def look_inside(page: Page, run: str) -> None:
    box = page.locator("#insides-run input")
    box.click()
    page.get_by_role("option", name=run).click()
    page.locator("#insides-go").click()


def test_a_dead_unit_and_the_prefix_are_seen_for_one_prompt(inner_runs: None, page: Page) -> None:
    tab(page, "Rank")
    tab(page, "Inside an adapter")
    expect(page.locator("#insides-told")).to_contain_text("Nothing looked at yet")
    look_inside(page, "inner adapter")
    told = page.locator("#insides-told")
    expect(told).to_contain_text("Silent units", timeout=120_000)
    assert "1\nof 240" in told.inner_text()
    assert "239\n" in told.inner_text()
    expect(page.locator("#bottleneck-units .js-plotly-plot")).to_be_visible(timeout=60_000)
    expect(page.locator("#adapter-norms")).to_contain_text("exactly nothing")
    with page.expect_download() as download:
        page.locator("#bottleneck-units-caption a").click()
    rows = list(csv.reader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
    assert [row[0] for row in rows[1:] if row[-1] == "0"] == ["7"]

    page.locator("#insides-prompt textarea").fill("Count the words in a text.")
    look_inside(page, "inner prefix")
    expect(told).to_contain_text("Attention on the prefix", timeout=120_000)
    expect(page.locator("#prefix-mass .js-plotly-plot")).to_be_visible(timeout=60_000)
    expect(page.locator("#bottleneck-units .js-plotly-plot")).to_have_count(0)


def test_an_empty_prompt_is_said_and_leaves_no_bar(inner_runs: None, page: Page) -> None:
    tab(page, "Rank")
    tab(page, "Inside an adapter")
    page.locator("#insides-prompt textarea").fill(" ")
    look_inside(page, "inner adapter")
    expect(page.locator(".toast-body")).to_contain_text("The prompt is empty.", timeout=60_000)
    expect(page.locator("#insides-told .progress")).to_have_count(0)


def test_a_tuned_model_is_laid_beside_its_base(page: Page, tiny_llama: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_llama, tmp_path / "tuned")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj"
    tensors[f"{name}.weight"] = tensors[f"{name}.weight"] + 0.01 * torch.outer(torch.ones(64), torch.ones(64))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tab(page, "Rank")
    tab(page, "A tuned model")
    choose(page, "#tuned-base", str(tiny_llama))
    choose(page, "#tuned-model", str(folder))
    page.locator("#tuned-go").click()
    expect(page.locator("#tuned-heat button[data-module]")).to_have_count(14, timeout=60_000)
    expect(page.locator("#tuned-module")).to_contain_text(name)
    expect(page.locator("#tuned-module")).to_contain_text("90 % of its energy in 1")
    expect(page.locator("#tuned-spectrum .js-plotly-plot")).to_be_visible(timeout=60_000)
    page.locator("#tuned-heat button[data-module='model.layers.0.mlp.up_proj']").click()
    expect(page.locator("#tuned-spectrum")).to_contain_text("exactly zero")
    choose(page, "#tuned-model", str(tmp_path / "nowhere"))
    page.locator("#tuned-go").click()
    expect(page.locator(".toast-body")).to_contain_text("There is no model at")
    expect(page.get_by_role("progressbar").locator("visible=true")).to_have_count(0)


def test_a_sweep_is_queued_by_its_button(planted_run: str, page: Page, browser_home: Path) -> None:  # noqa: F811
    home = StudioHome.find(browser_home)
    before = {run.id for run in store.list_runs(home)}
    tab(page, "Rank")
    tab(page, "Sweep")
    expect(page.locator("#sweep-told")).to_contain_text("No sweep to draw yet")
    page.locator("#sweep-run input").click()
    page.get_by_role("option", name=re.compile("planted")).first.click()
    with lock_queue(home, timeout_s=10):  # whoever holds the lock lets nothing start
        try:
            page.locator("#sweep-go").click()
            expect(page.locator(".toast-body")).to_contain_text(f"{len(RANKS)} runs are queued")
            queued = [run for run in store.list_runs(home) if run.id not in before]
            assert {run.status for run in queued} == {RunStatus.QUEUED}
            assert sorted(store.read_run(home, run.id).spec.method.rank for run in queued) == list(RANKS)
            assert {run.name for run in queued} == {f"planted r={rank}" for rank in RANKS}
        finally:
            for run in store.list_runs(home):
                if run.id not in before:
                    shutil.rmtree(home.runs / run.id)


def test_an_errors_effect_is_measured_on_real_text(page: Page, tiny_llama: Path) -> None:
    tab(page, "Quantization")
    expect(page.locator("#quantization-heat button[data-module]")).to_have_count(210, timeout=120_000)
    choose(page, "#quantization-model", str(tiny_llama))
    page.locator("#measure-button").click()
    expect(page.locator("#quantization-heat button[data-module]")).to_have_count(14, timeout=60_000)
    page.locator("#effect-button").click()
    effect = page.locator("#quantization-effect")
    expect(effect.get_by_role("progressbar")).to_be_visible()
    expect(effect.locator("tbody tr")).to_have_count(5, timeout=120_000)
    assert [line.split()[0] for line in effect.locator("tbody tr").all_inner_texts()] == ["as", "NF4", "FP4", "INT4", "INT8"]
    expect(effect).to_contain_text("answer tokens of 8 rows")
