"""`calibrate`: a base model rounded to NF4 with calibration, as a folder among the home's models."""

from __future__ import annotations

import argparse
from typing import Any

from studio.cli.output import print_json, print_table, say, show_loss
from studio.cli.serve import ensure_starter
from studio.core.errors import SpecError
from studio.core.paths import StudioHome
from studio.core.spec import DataSpec, RunSpec
from studio.jobs.worker import Worker

HELD_AS = {"unquantized": "not quantized", "nf4": "NF4", "calibrated": "NF4, calibrated"}


def add_verbs(verbs: Any) -> None:
    verb = verbs.add_parser(
        "calibrate", help="round a model to NF4 so that its answers stay close: a better base for QLoRA",
        description="Writes the model anew, its weights on NF4's grid, chosen so that each layer's outputs on your data stay close "
        "(GPTQ). The folder is then a base model like any other; with QLoRA it loses less to 4 bits. The original is not changed.",
        epilog="example: python -m studio calibrate starter",
    )  # fmt: skip
    verb.add_argument("model", metavar="MODEL", help="a name from the list, a hub id, a folder or a GGUF file")
    verb.add_argument("--data", default=DataSpec().source, help="dataset whose training rows are read; the starter's when left out")
    verb.add_argument("--rows", type=int, default=256, help="how many of them, at most (256)")
    verb.add_argument("--out", default="", help="where to; among the home's models when left out. Nothing is overwritten")
    verb.add_argument("--json", action="store_true", help="one JSON object as the last line")
    verb.set_defaults(verb=run_calibrate)


def run_calibrate(options: argparse.Namespace, home: StudioHome) -> int:
    if options.rows < 1:
        raise SpecError(["--rows is at least 1."])
    spec = RunSpec.parse({"model": {"id": options.model}, "data": {"source": options.data}})
    ensure_starter(home, spec)
    done = call_worker(home, spec, options.rows, options.out)
    if options.json:
        print_json(done)
        return 0
    losses = done["held_out"]["loss"]
    base = losses["unquantized"]
    print_table(
        ("base held as", "held-out loss", "against not quantized"),
        [(label, show_loss(losses[name]), f"{100 * (losses[name] / base - 1):+.2f} %") for name, label in HELD_AS.items()],
    )
    print(f"{done['path']}\nTrain on it: --set model.id={done['path']} --set method.family=qlora")
    return 0


def call_worker(home: StudioHome, spec: RunSpec, rows: int, out: str) -> dict[str, Any]:
    """The worker's answer, its progress told on the way. Raises StudioError."""
    worker = Worker("studio.calibration", home.root / "logs" / "calibration.log", arguments=["--home", str(home.root)])
    asked = {"model": spec.model.model_dump(mode="json"), "data": spec.data.model_dump(mode="json"), "rows": rows, "out": out}
    try:
        for event in worker.stream("calibrate", **asked):
            if event.name == "done":
                return dict(event.data)
            share, phrase = event.data
            say(f"{100 * share:3.0f} %  {phrase}")
    finally:
        worker.close()
    return {}
