"""`export`, `push`: what a run leaves the studio as."""

from __future__ import annotations

import argparse
from typing import Any

from studio.cli.output import print_json, say
from studio.core.paths import StudioHome
from studio.core.units import show_bytes
from studio.jobs.worker import Worker

KINDS = ("adapter", "merged", "gguf", "card", "script")


def add_verbs(verbs: Any) -> None:
    export = verbs.add_parser(
        "export", help="a run as adapter zip, merged model, GGUF, model card or standalone script",
        epilog="example: python -m studio export RUN gguf --out model.gguf",
    )  # fmt: skip
    export.add_argument("run", metavar="RUN")
    export.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    export.add_argument("--out", default="", help="where to; HOME/exports/RUN/ when left out. Nothing is overwritten")
    export.add_argument("--precision", choices=("f16", "bf16", "f32"), default="f16", help="of a GGUF's matrices")
    export.add_argument(
        "--weights", choices=("as_trained", "original"), default="as_trained", help="what a quantized base is merged into: its own "
        "dequantized weights, so that the answers stay the same, or the original ones",
    )  # fmt: skip
    export.add_argument("--json", action="store_true", help="one JSON object as the last line")
    export.set_defaults(verb=run_export)
    push = verbs.add_parser(
        "push", help="upload a run's adapter or merged model to a hub; the token is $HF_TOKEN",
        epilog="example: HF_TOKEN=... python -m studio push RUN me/my-adapter",
    )  # fmt: skip
    push.add_argument("run", metavar="RUN")
    push.add_argument("repository", metavar="OWNER/NAME")
    push.add_argument("--merged", action="store_true", help="the merged model instead of the adapter")
    push.add_argument("--public", action="store_true", help="make a new repository public")
    push.add_argument("--json", action="store_true", help="one JSON object as the last line")
    push.set_defaults(verb=run_push)


def run_export(options: argparse.Namespace, home: StudioHome) -> int:
    done = call_worker(
        home, "export", run=options.run, kind=options.kind, out=options.out, precision=options.precision, weights=options.weights
    )
    print_json(done) if options.json else print(f"{done['path']}  {show_bytes(done['bytes'])}")
    return 0


def run_push(options: argparse.Namespace, home: StudioHome) -> int:
    kind = "merged" if options.merged else "adapter"
    done = call_worker(home, "push", run=options.run, repository=options.repository, kind=kind, private=not options.public)
    print_json(done) if options.json else print(done["url"])
    return 0


def call_worker(home: StudioHome, verb: str, **args: Any) -> dict[str, Any]:
    """The export worker's answer, its progress told on the way. Raises StudioError."""
    worker = Worker("studio.export", home.root / "logs" / "export.log", arguments=["--home", str(home.root)])
    try:
        for event in worker.stream(verb, **args):
            if event.name == "done":
                return dict(event.data)
            say(str(event.data))
    finally:
        worker.close()
    return {}
