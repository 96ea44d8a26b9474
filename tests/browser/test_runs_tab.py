"""The Runs tab in a real browser, beyond the main path: find, name, compare, delete and take back; queue, stop, go on, extend, export."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from studio.core.files import append_line, write_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import Progress, RunResult, RunStatus, StepRecord
from studio.core.spec import RunSpec
from studio.jobs import notes, runner, store

Plant = Callable[..., RunPaths]


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """Real runs train beside the browser here."""
    expect.set_options(timeout=30_000)
    yield
    expect.set_options(timeout=5_000)


@pytest.fixture
def browser_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of one test alone: what it lists is what the test has put there, whatever ran before."""
    return StudioHome.find(tmp_path_factory.mktemp("runs-home")).root


@pytest.fixture
def home(browser_home: Path) -> StudioHome:
    return StudioHome(browser_home)


@pytest.fixture
def plant(home: StudioHome) -> Plant:
    """A finished run with a falling curve, written by hand."""

    def make(name: str, rank: int = 8, eval_loss: float = 0.7) -> RunPaths:
        paths = RunPaths(home.runs / f"20260101-000000-{name}")
        paths.folder.mkdir()
        for step in range(1, 41):
            append_line(paths.metrics, StepRecord(step, loss=2 - step / 40, grad_norm=1.0, tokens=step, seconds=step / 2).to_json())
        append_line(paths.metrics, StepRecord(40, eval_loss=eval_loss, tokens=40, seconds=20).to_json())
        write_json(paths.progress, vars(Progress("finished", 40, 40)))
        result = RunResult(RunStatus.FINISHED, 40, 2.0, eval_loss, 1.0, 40, 40, 20.0 + rank, 1000 * rank, 10**6, 10**9 + rank, 4000)
        write_json(paths.result, result.to_json())
        write_json(paths.spec, RunSpec.parse({"name": name, "method": {"family": "lora", "rank": rank}}).to_json())
        return paths

    return make


@pytest.fixture
def start(home: StudioHome, tiny_llama: Path, tmp_path: Path) -> Callable[[str, int], RunPaths]:
    """A real run of the tiny model, started as the command line would; the page's studio works off the queue."""
    rows = tmp_path / "rows.jsonl"
    pairs = [{"prompt": f"Add {i} and {i + 1}.", "completion": f"def total():\n    return {i} + {i + 1}"} for i in range(60)]
    rows.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))

    def make(name: str, steps: int) -> RunPaths:
        spec = RunSpec.parse({
            "name": name, "model": {"id": str(tiny_llama)}, "data": {"source": str(rows)}, "method": {"family": "lora", "rank": 2},
            "training": {"batch_size": 4, "max_steps": steps, "max_length": 128, "eval_every": 500, "save_every": 5},
        })  # fmt: skip
        return home.run(runner.start_run(home, spec))

    return make


def open_runs(page: Page) -> None:
    page.get_by_role("tab", name="Runs", exact=True).locator("visible=true").first.click()
    expect(page.locator("#run-list .run-row").first).to_be_visible(timeout=20_000)


def row(page: Page, name: str) -> Locator:
    return page.locator("#run-list .run-line", has_text=name)


def pick(page: Page, name: str) -> None:
    """Look at a run, and wait until its forms are filled too: what is typed before that is lost."""
    row(page, name).locator(".run-row").click()
    expect(page.locator("#run-header h2")).to_have_text(name)
    expect(page.locator("#notes-form").get_by_label("Name")).to_have_value(name)


def unfold(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def chip(page: Page, status: str, timeout_s: int = 120) -> None:
    expect(page.locator(f"#run-header .chip.{status}")).to_be_visible(timeout=timeout_s * 1000)


def test_runs_are_found_named_tagged_and_noted(page: Page, home: StudioHome, plant: Plant) -> None:
    for name in ("alpha", "beta", "gamma"):
        plant(name)
    open_runs(page)
    expect(page.locator("#run-list .run-row")).to_have_count(3)
    search = page.locator("#run-search textarea, #run-search input").first
    search.fill("beta")
    expect(page.locator("#run-list .run-row")).to_have_count(1)
    pick(page, "beta")
    unfold(page, "Name, tags and notes")
    form = page.locator("#notes-form")
    form.get_by_label("Name").fill("the <b>best</b> of three")
    form.get_by_label("Tags").fill("baseline, keep")
    form.get_by_label("Notes").fill("Learned it.\nTwice.")
    page.locator("#save-notes-button").click()
    expect(page.locator("#run-header h2")).to_have_text("the <b>best</b> of three")
    expect(page.locator("#run-header .run-notes")).to_contain_text("Twice.")
    search.fill("baseline")
    expect(row(page, "the <b>best</b> of three")).to_contain_text("keep")
    expect(page.locator("#run-list .run-row")).to_have_count(1)
    form.get_by_label("Name").fill("x" * 300)
    page.locator("#save-notes-button").click()
    expect(page.locator(".toast-body.error")).to_contain_text("at most 100 characters")
    kept = store.read_notes(home.run("20260101-000000-beta"))
    assert (kept.name, kept.tags, kept.text) == ("the <b>best</b> of three", ["baseline", "keep"], "Learned it.\nTwice.")
    search.fill("nothing like it")
    expect(page.locator("#run-list")).to_contain_text("No run fits")


def test_the_toolbar_shows_only_under_the_pointer_and_no_card_lies_on_its_heading(page: Page, plant: Plant) -> None:
    append_line(plant("drawn").samples, {"step": 40, "prompt": "Add.", "answer": "Added."})
    open_runs(page)
    pick(page, "drawn")
    figure = page.locator("#loss-plot .js-plotly-plot")
    bar = figure.locator(".modebar")
    page.mouse.move(1, 1)
    expect(bar).to_have_css("opacity", "0")
    figure.hover()
    expect(bar).to_have_css("opacity", "0.9")
    legend, shown = figure.locator(".legend").first.bounding_box(), bar.bounding_box()
    assert legend and shown and legend["y"] + legend["height"] < shown["y"]
    heading, cards = page.locator("#samples .section-head").bounding_box(), page.locator("#samples .samples").bounding_box()
    assert heading and cards and heading["y"] + heading["height"] <= cards["y"]


def test_a_zoom_stays_when_the_curve_is_drawn_anew(page: Page, plant: Plant) -> None:
    plant("zoomed")
    open_runs(page)
    pick(page, "zoomed")
    area = page.locator("#loss-plot .nsewdrag.drag").first
    box = area.bounding_box()
    assert box
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + box["height"] - 20, steps=4)
    page.mouse.up()
    shown = "() => document.querySelector('#loss-plot .js-plotly-plot').layout"
    page.wait_for_function(f"({shown})().xaxis.autorange === false")
    zoom = page.evaluate(f"({shown})().xaxis.range")
    assert zoom[0] > 5 and zoom[1] < 35
    page.get_by_label("Logarithmic").check()
    page.wait_for_function(f"({shown})().yaxis.type === 'log'")
    assert page.evaluate(f"({shown})().xaxis.range") == zoom


def test_a_run_is_deleted_taken_back_and_at_last_deleted_for_good(page: Page, home: StudioHome, plant: Plant) -> None:
    run = plant("unwanted")
    plant("kept")
    open_runs(page)
    pick(page, "unwanted")
    page.locator("#delete-button").click()
    page.locator("#keep-button").click()
    expect(page.locator("#confirm-delete-button")).to_be_hidden()
    assert run.spec.exists()

    def delete() -> None:
        page.locator("#delete-button").click()
        page.locator("#confirm-delete-button").click()
        expect(row(page, "unwanted")).to_have_count(0)
        expect(page.locator("#run-header")).to_contain_text("Pick a run")

    delete()
    assert notes.list_trash(home) == [run.id]
    unfold(page, "Trash")
    page.locator("#restore-button").click()
    expect(page.locator("#run-header h2")).to_have_text("unwanted")
    expect(row(page, "unwanted")).to_be_visible()
    assert notes.list_trash(home) == [] and run.result.exists()

    delete()
    page.locator("#empty-trash-button").click()
    told = page.locator("#empty-trash-told")
    expect(told).to_contain_text(re.compile(r"1 run, [\d.]+ kB\. Nothing brings them back\."))
    page.locator("#keep-trash-button").click()
    expect(told).to_be_hidden()
    assert notes.list_trash(home) == [run.id]
    page.locator("#empty-trash-button").click()
    page.locator("#confirm-empty-button").click()
    expect(told).to_be_hidden()
    assert notes.list_trash(home) == [] and not (home.trash / run.id).exists()
    page.locator("#empty-trash-button").click()
    expect(page.locator(".toast-body", has_text="The trash is empty.")).to_be_visible()


def test_two_runs_are_compared(page: Page, plant: Plant) -> None:
    plant("small", rank=4, eval_loss=0.8)
    plant("large", rank=64, eval_loss=0.6)
    open_runs(page)
    for name in ("small", "large"):
        row(page, name).locator(".tick").click()
        expect(row(page, name).locator(".tick")).to_have_attribute("aria-checked", "true")
    expect(page.locator("#comparison")).to_contain_text("2 runs compared")
    names = "plot => plot.data.map(trace => trace.name)"
    curves, pareto = (page.locator(f"{place} .js-plotly-plot") for place in ("#compare-plot", "#pareto-plot"))
    expect(curves).to_be_visible(timeout=20_000)
    assert set(curves.evaluate(names)) == {"small", "large"}
    differing = page.locator("#differences table").first
    expect(differing).to_contain_text("method.rank")
    assert "training.epochs" not in differing.inner_text()
    x = "plot => plot.data.flatMap(trace => trace.x).filter(value => value !== null).sort((a, b) => a - b)"
    expect(pareto).to_be_visible()
    page.wait_for_function(f"({x})(document.querySelector('#pareto-plot .js-plotly-plot')).includes(0.064)")
    page.locator(".cost label", has_text="Time").click()
    page.wait_for_function(f"({x})(document.querySelector('#pareto-plot .js-plotly-plot')).includes(1.4)")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#comparison")).to_be_hidden()


def test_runs_wait_change_places_stop_go_on_are_extended_and_exported(
    page: Page, home: StudioHome, start: Callable[[str, int], RunPaths], tmp_path: Path
) -> None:
    long, second, third = start("long one", 20_000), start("second", 3), start("third", 3)
    open_runs(page)
    pick(page, "third")
    expect(page.locator("#run-header")).to_contain_text("Number 2 of 2")
    page.locator("#earlier-button").click()
    expect(page.locator("#run-header")).to_contain_text("Number 1 of 2")
    expect(page.locator("#earlier-button")).to_be_hidden()

    pick(page, "long one")
    expect(page.locator("#run-header")).to_contain_text(re.compile(r"step [1-9]\d* of 20,000"), timeout=120_000)
    expect(page.locator("#resume-form")).to_be_hidden()
    page.locator("#stop-button").click()
    chip(page, "stopped")
    expect(page.locator("#resume-form")).to_be_visible()
    expect(page.locator("#export-form")).to_be_visible()
    done = store.read_progress(long).step
    pick(page, "second")
    chip(page, "finished")
    assert third.process.stat().st_mtime_ns < second.process.stat().st_mtime_ns

    pick(page, "long one")
    unfold(page, "Go on from a checkpoint, or extend")
    total = page.locator("#resume-form input[type=number]")
    for steps in (done + 4, done + 9):  # a stopped run goes on, a finished one is extended
        total.fill(str(steps))
        page.locator("#go-on-button").click()
        page.wait_for_function("steps => document.querySelector('#loss-plot .js-plotly-plot').data[0].x.at(-1) === steps", arg=steps,
                               timeout=120_000)  # fmt: skip
        chip(page, "finished")
        result = store.read_result(long)
        assert result and result.steps == steps
    unfold(page, "Export")
    page.locator("#export-button").click()
    expect(page.locator("#export-form")).to_contain_text("Exported.", timeout=120_000)
    with page.expect_download() as download:
        page.locator("#export-form a[download]").first.click()
    download.value.save_as(tmp_path / "adapter.zip")
    with zipfile.ZipFile(tmp_path / "adapter.zip") as archive:
        assert archive.read("adapter_model.safetensors") == (long.adapter / "adapter_model.safetensors").read_bytes()


def test_on_a_phone_the_vital_signs_stand_two_by_two(page: Page, plant: Plant) -> None:
    plant("phone")
    page.set_viewport_size({"width": 390, "height": 844})
    open_runs(page)
    pick(page, "phone")
    vitals = page.locator("#vitals-plot .js-plotly-plot")
    expect(vitals).to_be_visible(timeout=20_000)
    page.wait_for_function("document.querySelector('#vitals-plot .js-plotly-plot')?.layout.height === 340")
    assert vitals.evaluate("plot => plot.layout.yaxis3.domain[1] < plot.layout.yaxis.domain[0]")
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
