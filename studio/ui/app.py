"""The page: tabs in order, nothing else; and the server around it."""

from __future__ import annotations

import os
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from studio import __version__
from studio.core.errors import SetupError
from studio.core.paths import ASSETS, StudioHome
from studio.core.ports import check_port, port_in_use
from studio.core.units import show_bytes
from studio.jobs import store
from studio.jobs.queue import QueueThread
from studio.ui import links, markup, playground, quantization, rank, runs, train
from studio.ui.assets import KeptAssets
from studio.ui.drawings import card_css
from studio.ui.lazy import VISITED, build_on_visit, show_no_progress
from studio.ui.studio import Studio
from studio.ui.theme import studio_theme

STYLE_SHEETS = ("theme.css", "labs.css", "runs.css", "playground.css")
QUIET = {"show_progress": "hidden"}
SESSIONS = 64
"""Pages whose visited tabs the server holds, about 2 MB each; beyond that the page used least recently must be reloaded."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def build_page(studio: Studio) -> gr.Blocks:
    """The whole page. All tabs but the first are built when they are first looked at."""
    with gr.Blocks(title="PEFT Studio", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(header_html(studio), padding=False, elem_id="top")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Train", id="train"):
                train_tab = train.build(studio)
                train.initial_values(studio, train_tab.form)
            with gr.Tab("Runs", id="runs") as runs_tab:
                runs_visited = build_on_visit(runs_tab, lambda: build_runs())
            with gr.Tab("Playground", id="playground") as play_tab:
                play_visited = build_on_visit(play_tab, lambda: playground.build(studio, play_tab, shared))
            with gr.Tab("Quantization", id="quantization") as quantization_tab:
                build_on_visit(quantization_tab, lambda: quantization.build(studio, quantization_tab))
            with gr.Tab("Rank", id="rank") as rank_tab:
                build_on_visit(rank_tab, lambda: rank.build(studio, rank_tab))
        shared = links.build(tabs)

        def build_runs() -> None:
            tab = runs.build(studio, shared)
            train.connect_again(studio, tabs, tab.again, tab.selected, train_tab)
            opened = [shared.play_run, play_visited, tabs]
            tab.play.click(lambda run_id: (run_id, VISITED, gr.Tabs(selected="playground")), tab.selected, opened, **QUIET)

        opened = [shared.show_run, runs_visited, tabs]
        train_tab.start.success(lambda run_id: (run_id, VISITED, gr.Tabs(selected="runs")), train_tab.started, opened, **QUIET)
        page.load(lambda: at_start(studio), None, opened, **QUIET)
    # The page's events are no public API (the command line is): describing them would double what every visit loads.
    for event in page.fns.values():
        event.api_visibility = "private"
    show_no_progress(page.fns.values(), shared.play_run)
    return page


def at_start(studio: Studio) -> tuple[object, ...]:
    """A page opens on the run in progress, where there is one. Values of the run to show, its tab's visit, and the tabs."""
    active = [run.id for run in store.list_runs(studio.home) if run.status.is_active]
    return (active[0], VISITED, gr.Tabs(selected="runs")) if active else (gr.skip(), gr.skip(), gr.skip())


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
    check_port(host, port)
    password = os.environ.get("PEFT_STUDIO_PASSWORD", "")
    if host not in LOOPBACK and not password:
        raise SetupError(f"{host} can be reached by others, and no password is set.", "Set PEFT_STUDIO_PASSWORD, or serve on 127.0.0.1.")
    studio = Studio(home)
    queue = QueueThread(home)
    queue.start()
    css = "".join((ASSETS / name).read_text(encoding="utf-8") for name in STYLE_SHEETS) + card_css()
    try:
        page = build_page(studio).queue(default_concurrency_limit=8)
        page.launch(
            server_name=host, server_port=port, inbrowser=open_browser, share=False, quiet=True, show_error=True, ssr_mode=False, pwa=True,
            favicon_path=str(ASSETS / "logo.svg"), theme=studio_theme(), css=css, footer_links=[], prevent_thread_lock=True,
            auth=("studio", password) if password else None, max_file_size="500mb", strict_cors=True, state_session_capacity=SESSIONS,
            run_history=False,  # gradio's client would write every event with its figures to the browser's disk, anew and whole each time
            allowed_paths=[str(home.root / "exports")], app_kwargs={"middleware": [Middleware(KeptAssets)]},
        )  # fmt: skip
        # Flushed: where the output goes to a file or a pipe, the address must be there while the studio runs.
        print(f"PEFT Studio: http://{f'[{host}]' if ':' in host else host}:{page.server_port}", flush=True)
        page.block_thread()
    except OSError as error:
        if "port" not in str(error):
            raise
        # Somebody took it since it was looked at, for example a second studio started at the same moment.
        raise port_in_use(host, port, "Address already in use") from error
    finally:
        queue.stop()
        studio.close()
