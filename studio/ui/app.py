"""The page: tabs in order, nothing else; and the server around it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import gradio as gr

from studio import __version__
from studio.core.errors import SetupError
from studio.core.paths import ASSETS, StudioHome
from studio.core.units import show_bytes
from studio.jobs import store
from studio.jobs.queue import QueueThread
from studio.ui import markup, playground, quantization, rank, runs, train
from studio.ui.drawings import card_css
from studio.ui.lazy import build_on_visit
from studio.ui.studio import Studio
from studio.ui.theme import studio_theme

STYLE_SHEETS = ("theme.css", "labs.css", "runs.css", "playground.css")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def build_page(studio: Studio) -> gr.Blocks:
    """The whole page. Tabs not looked at are not rendered until they are."""
    with gr.Blocks(title="PEFT Studio", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(header_html(studio), padding=False, elem_id="top")
        remembered = playground.build_memory()
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Train", id="train"):
                train_tab = train.build(studio)
                train.initial_values(studio, train_tab.form)
            with gr.Tab("Runs", id="runs"):
                runs_tab = runs.build(studio)
            with gr.Tab("Playground", id="playground"):
                playground_tab = playground.build(studio, remembered)
            with gr.Tab("Quantization", id="quantization") as quantization_tab:
                build_on_visit(quantization_tab, lambda: quantization.build(studio, quantization_tab))
            with gr.Tab("Rank", id="rank") as rank_tab:
                build_on_visit(rank_tab, lambda: rank.build(studio, rank_tab))
        _connect(studio, page, tabs, train_tab, runs_tab, playground_tab)
    # The page's events are no public API (the command line is): describing them would double what every visit loads.
    for event in page.fns.values():
        event.api_visibility = "private"
    return page


def _connect(
    studio: Studio, page: gr.Blocks, tabs: gr.Tabs, train_tab: train.TrainTab, runs_tab: runs.RunsTab, play_tab: playground.PlaygroundTab
) -> None:
    """What one tab starts and another shows."""
    quiet = {"show_progress": "hidden"}

    def open_run(run_id: str) -> tuple[object, ...]:
        return run_id, gr.Tabs(selected="runs"), gr.Timer(active=True)

    def at_start(remembered: str) -> tuple[object, ...]:
        run_id = runs.choose_at_start(studio, remembered)
        active = any(run.status.is_active for run in store.list_runs(studio.home) if run.id == run_id)
        return (run_id, gr.Tabs(selected="runs"), gr.Timer(active=True)) if active else (run_id, gr.skip(), gr.skip())

    # The runs' timer ticks only while their tab is looked at.
    tabs.select(on_tab, None, runs_tab.timer, queue=False, **quiet)
    shown = [runs_tab.selected, tabs, runs_tab.timer]
    runs_tab.follow(train_tab.start.success(open_run, train_tab.started, shown, **quiet))
    runs_tab.follow(page.load(at_start, runs_tab.remembered, shown, **quiet))
    playground.connect(studio, page, tabs, runs_tab, play_tab)
    train.connect_again(studio, tabs, runs_tab.again, runs_tab.selected, train_tab)


def on_tab(event: gr.SelectData) -> gr.Timer:
    return gr.Timer(active=event.value == "Runs")


def header_html(studio: Studio) -> str:
    machine = studio.hardware
    logo = (ASSETS / "logo.svg").read_text(encoding="utf-8")
    facts = f"{machine.name} · {show_bytes(machine.memory_bytes)} · {'bf16' if machine.bf16 else 'fp32'}"
    title = f"{machine.reason} Home: {studio.home.root}. Version {__version__}."
    return (
        f'<header class="top">{logo}<div><h1>PEFT Studio</h1><p>Fine-tune with little memory, and see inside.</p></div>'
        f'<p class="machine" title="{markup.escape(title)}">{markup.escape(facts)}<br>'
        f"<small>{markup.escape(short_path(studio.home.root))}</small></p></header>"
    )


def short_path(path: Path) -> str:
    """The path with the user's own folder as ~."""
    return f"~/{path.relative_to(Path.home()).as_posix()}" if path.is_relative_to(Path.home()) else str(path)


def serve(home: StudioHome, host: str = "127.0.0.1", port: int = 7860, open_browser: bool = True) -> None:
    """Serve until interrupted. Raises SetupError for a port in use or an open address without a password."""
    password = os.environ.get("PEFT_STUDIO_PASSWORD", "")
    if host not in LOOPBACK and not password:
        raise SetupError(f"{host} can be reached by others, and no password is set.", "Set PEFT_STUDIO_PASSWORD, or serve on 127.0.0.1.")
    _check_port(host, port)
    studio = Studio(home)
    queue = QueueThread(home)
    queue.start()
    css = "".join((ASSETS / name).read_text(encoding="utf-8") for name in STYLE_SHEETS) + card_css()
    try:
        build_page(studio).queue(default_concurrency_limit=8).launch(
            server_name=host, server_port=port, inbrowser=open_browser, share=False, quiet=True, show_error=True, ssr_mode=False, pwa=True,
            favicon_path=str(ASSETS / "logo.svg"), theme=studio_theme(), css=css, footer_links=[], prevent_thread_lock=False,
            auth=("studio", password) if password else None, max_file_size="500mb", strict_cors=True,
            allowed_paths=[str(home.root / "exports")],
        )  # fmt: skip
    finally:
        queue.stop()
        studio.close()


def _check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SetupError(
                f"Port {port} on {host} cannot be used: {error.strerror}.", f"Name another, for example --port {port + 1}."
            ) from error
