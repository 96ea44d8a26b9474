"""How long a click or a step of a slider takes in the laboratories, from the event in the page to the new figure painted.

    python tests/benchmarks/clicks.py [--times 20] [--json]

Serves the studio on a home of its own: the starter model, measured once before, and a run as large as a 7B model's (32 layers x 7
modules, r 64, as many snapshots as a run keeps). Headless Chromium presses heat-map cells and moves the slider like a person; a watcher
in the page notes when every figure that should change holds other numbers, and two frames have passed. `processor_ms` is what studio,
worker and browser together computed for one of them: on a busy machine the rest of the time is waiting for a core.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from playwright.sync_api import Page, expect, sync_playwright
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from studio.core.paths import StudioHome
from studio.core.spec import RunSpec
from studio.train.snapshots import MAX_SNAPSHOTS

REPOSITORY = Path(__file__).resolve().parents[2]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
LAYERS, RANK, WIDE = 32, 64, 256
MODULES = [*(f"self_attn.{name}_proj" for name in "qkvo"), *(f"mlp.{name}_proj" for name in ("gate", "up", "down"))]
RUN = "20260101-000000-large"
WATCH = """([plots, kind]) => {
  const drawn = id => {
    const plot = document.querySelector(`#${id} .js-plotly-plot`);
    return plot && plot.querySelector('.main-svg') ? JSON.stringify(plot.data.map(trace => [trace.x, trace.y])) : '';
  };
  const before = plots.map(drawn);
  let began = 0;
  addEventListener(kind, () => { began = performance.now(); }, {capture: true, once: true});
  window.painted = new Promise(resolve => {
    const look = () => {
      const all = began && plots.every((id, index) => { const now = drawn(id); return now && now !== before[index]; });
      if (!all) return requestAnimationFrame(look);
      requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now() - began)));
    };
    look();
  });
}"""


def make_home(root: Path) -> None:
    """The starter model by a link, and the run's snapshots and final adapter of random factors."""
    own, home = StudioHome.find(), StudioHome.find(root)
    home.models.mkdir(parents=True)
    home.starter_model.symlink_to(own.starter_model, target_is_directory=True)
    run = home.runs / RUN
    generator = np.random.default_rng(0)
    for number in range(MAX_SNAPSHOTS + 1):
        folder = run / "adapter" if number == MAX_SNAPSHOTS else run / "snapshots" / f"step-{10 * number:06d}"
        folder.mkdir(parents=True)
        tensors = {}
        for layer in range(LAYERS):
            for module in MODULES:
                name = f"base_model.model.model.layers.{layer}.{module}"
                tensors[f"{name}.lora_A.weight"] = generator.standard_normal((RANK, WIDE)).astype(np.float16)
                tensors[f"{name}.lora_B.weight"] = (number * generator.standard_normal((WIDE, RANK))).astype(np.float16)
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "base_model_name_or_path": "starter"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    (run / "result.json").write_text(json.dumps({"status": "finished", "steps": 10 * MAX_SNAPSHOTS}))
    (run / "spec.json").write_text(json.dumps(RunSpec.parse({"name": "large"}).to_json()))


def timed(page: Page, plots: list[str], kind: str, act: Callable[[], Any]) -> float:
    """Milliseconds from the event `kind` that `act` causes until all of `plots` show something else."""
    page.evaluate(WATCH, [plots, kind])
    act()
    milliseconds = float(page.evaluate("window.painted"))
    page.wait_for_timeout(300)  # a person looks before the next click
    return milliseconds


def processor_ms() -> float:
    """Processor time of all processes that this one started: studio, worker, browser."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return 1000 * sum(each.user + each.system for each in times)


def summed(act: Callable[[], list[float]]) -> dict[str, float]:
    before = processor_ms()
    values = act()
    used = (processor_ms() - before) / len(values)
    return {"median_ms": round(statistics.median(values), 1), "worst_ms": round(max(values), 1), "processor_ms": round(used, 1)}


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).locator("visible=true").first.click()


def quantization_clicks(page: Page, times: int) -> dict[str, float]:
    """A cell of the heat map of the starter model; three figures change."""
    open_tab(page, "Quantization")
    cells = page.locator("#quantization-heat button[data-module]")
    expect(cells).to_have_count(210, timeout=300_000)
    plots = ["weights-histogram", "code-usage", "block-maxima"]
    cells.nth(0).click()
    page.wait_for_timeout(2000)
    # The first look at a module reads its weights; a second one is what is promised to be quick.
    spots = [7 * (number + 1) for number in range(times)]
    for spot in spots:
        timed(page, plots, "click", cells.nth(spot).click)
    return summed(lambda: [timed(page, plots, "click", cells.nth(spot).click) for spot in spots])


def rank_clicks(page: Page, times: int) -> dict[str, float]:
    """A cell of the heat map of the large run; its singular values change."""
    open_tab(page, "Rank")
    cells = page.locator("#rank-heat button[data-module]")
    expect(cells).to_have_count(LAYERS * len(MODULES), timeout=300_000)
    page.wait_for_timeout(2000)
    return summed(lambda: [timed(page, ["singular-values"], "click", cells.nth(7 * number + 3).click) for number in range(times)])


def rank_slides(page: Page, times: int) -> dict[str, float]:
    """A step of the slider by the keyboard, to and fro; heat map and singular values change."""
    page.locator("#rank-step input[type=range]").focus()
    keys = ["ArrowLeft"] * (MAX_SNAPSHOTS - 2) + ["ArrowRight"] * (MAX_SNAPSHOTS - 2)
    moves = [functools.partial(page.keyboard.press, key) for key in (keys * times)[:times]]
    return summed(lambda: [timed(page, ["singular-values"], "keydown", move) for move in moves])


def serve(home: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "studio", "serve", "--no-browser", "--port", str(port), "--home", str(home)]
    server = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return server, url
        except OSError:
            time.sleep(0.2)
    server.terminate()
    raise SystemExit("the studio did not answer")


def measure(times: int) -> dict[str, dict[str, float]]:
    home = Path(tempfile.mkdtemp(prefix="clicks-benchmark-"))
    make_home(home)
    server, url = serve(home)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(url)
            page.wait_for_load_state("networkidle")
            found = {"quantization click": quantization_clicks(page, times), "rank click": rank_clicks(page, times)}
            found["rank slider"] = rank_slides(page, times)
            browser.close()
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(home, ignore_errors=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.times)
    if options.json:
        print(json.dumps(figures))
        return
    for name, values in figures.items():
        times = f"median {values['median_ms']:6.1f} ms, worst {values['worst_ms']:6.1f} ms of {options.times}"
        print(f"{name:20} {times}; processor {values['processor_ms']:6.1f} ms")


if __name__ == "__main__":
    main()
