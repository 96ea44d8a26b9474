"""`serve`: the studio's page. `setup`: the starter model and data, once."""

from __future__ import annotations

import argparse
from typing import Any

from studio.cli.output import say
from studio.core.paths import StudioHome
from studio.core.spec import RunSpec


def add_verbs(verbs: Any) -> None:
    serve = verbs.add_parser("serve", help="serve the studio's page (what happens without a verb)")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; any but this machine's own needs PEFT_STUDIO_PASSWORD")
    serve.add_argument("--port", type=int, default=7860)
    serve.add_argument("--no-browser", action="store_true", help="do not open the page in a browser")
    serve.set_defaults(verb=run_serve)
    setup = verbs.add_parser("setup", help="fetch the starter model and build the starter data, where missing")
    setup.set_defaults(verb=run_setup)


def run_serve(options: argparse.Namespace, home: StudioHome) -> int:
    from studio.ui.app import serve

    serve(home, options.host, options.port, not options.no_browser)
    return 0


def run_setup(options: argparse.Namespace, home: StudioHome) -> int:
    ensure_starter(home)
    return 0


def ensure_starter(home: StudioHome, spec: RunSpec | None = None) -> None:
    """The starter model and data, or only those of the two that `spec` uses. Instant when they are there."""
    if spec is None or spec.model.id == "starter":
        from studio.models.starter import ensure_starter_model

        ensure_starter_model(home, say)
    if spec is None or spec.data.source == "starter":
        from studio.data.starter import ensure_starter_data

        ensure_starter_data(home, say)
