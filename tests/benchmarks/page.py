"""How soon the studio's page can be used, beside a bare gradio page on the same machine; and what the studio's process takes.

Between the two stands a page with one of each kind of component that the studio's first tab has: what gradio's client takes to load
those, before anything is in them.

    python tests/benchmarks/page.py [--rounds 7] [--json]

All servers run at once; pages are opened in turn in fresh browser contexts, each timed from the request until its button can be
pressed: it is drawn, enabled, has stood still for two frames, and a click at its middle would reach it. The page itself looks at
every frame; asking from outside would not do, since Playwright looks for an element it did not find after 20, 50, 100, 100 and then
500 ms only, so that its answers come in steps of half a second. Prints the medians, their ratios, the server's resident memory after
the visits, and whether it has loaded torch.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
from playwright.sync_api import Browser, sync_playwright

WATCH = """
window.pressableAt = new Promise(resolve => {
    let before = "";
    function look() {
        const button = document.getElementById("train-button");
        const box = button?.getBoundingClientRect();
        const place = box?.width && !button.disabled ? [box.x, box.y, box.width, box.height].join() : "";
        const reached = place && button.contains(document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2));
        if (reached && place === before) return resolve(performance.now());
        before = reached ? place : "";
        requestAnimationFrame(look);
    }
    requestAnimationFrame(look);
});
"""
"""The time since the request, in milliseconds, at which the button can be pressed."""

REPOSITORY = Path(__file__).resolve().parents[2]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
BARE = """
import gradio as gr, sys
with gr.Blocks(analytics_enabled=False) as page:
    text = gr.Textbox(label="Name")
    button = gr.Button("Train", elem_id="train-button")
    button.click(lambda value: value, text, text)
    if sys.argv[2] == "kinds":
        gr.Dropdown(["one"]), gr.Checkbox(), gr.Number(), gr.Radio(["one"]), gr.UploadButton(), gr.HTML("text"), gr.BrowserState("")
        with gr.Row(), gr.Column(), gr.Group(), gr.Accordion(open=False):
            gr.HTML("text")
        with gr.Tabs(), gr.Tab("one"):
            gr.HTML("text")
page.launch(server_port=int(sys.argv[1]), ssr_mode=False, quiet=True)
"""
"""A text box and a button; or with them one of each kind of component that the studio's first tab has, and nothing else."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} did not answer")


def time_page(browser: Browser, url: str) -> float:
    """Seconds from the request until the page's main button can be pressed."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(url, wait_until="commit")
    milliseconds = page.evaluate("window.pressableAt")
    page.locator("#train-button").click(trial=True)
    context.close()
    return milliseconds / 1000


def measure(rounds: int) -> dict[str, float | bool]:
    home = Path(tempfile.mkdtemp(prefix="page-benchmark-"))
    ports = {name: free_port() for name in ("bare", "kinds", "studio")}
    servers = {name: subprocess.Popen([sys.executable, "-c", BARE, str(ports[name]), name], cwd=home) for name in ("bare", "kinds")}
    command = [sys.executable, "-m", "studio", "serve", "--no-browser", "--port", str(ports["studio"]), "--home", str(home)]
    servers["studio"] = subprocess.Popen(command, cwd=REPOSITORY)
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    try:
        for url in urls.values():
            wait_for(url)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            times: dict[str, list[float]] = {name: [] for name in urls}
            for number in range(rounds + 1):
                for name, url in urls.items():
                    seconds = time_page(browser, url)
                    if number:  # the first visit of each warms the server
                        times[name].append(seconds)
            browser.close()
        process = psutil.Process(servers["studio"].pid)
        medians = {name: statistics.median(values) for name, values in times.items()}
        return {
            "bare_s": round(medians["bare"], 3),
            "kinds_s": round(medians["kinds"], 3),
            "studio_s": round(medians["studio"], 3),
            "vs_bare": round(medians["studio"] / medians["bare"], 3),
            "kinds_vs_bare": round(medians["kinds"] / medians["bare"], 3),
            "server_mb": round(process.memory_info().rss / 1e6, 1),
            "loads_torch": any("libtorch" in region.path for region in process.memory_maps()),
        }
    finally:
        for server in servers.values():
            server.terminate()
            server.wait(30)
        shutil.rmtree(home, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.rounds)
    if options.json:
        print(json.dumps(figures))
        return
    print(f"bare gradio page  {figures['bare_s']:.3f} s until its button can be pressed (median of {options.rounds})")
    print(f"one of each kind  {figures['kinds_s']:.3f} s: {figures['kinds_vs_bare']:.2f} times the bare page")
    print(f"studio            {figures['studio_s']:.3f} s: {figures['vs_bare']:.2f} times the bare page")
    print(f"studio's process  {figures['server_mb']:.0f} MB resident, torch {'loaded' if figures['loads_torch'] else 'not loaded'}")


if __name__ == "__main__":
    main()
