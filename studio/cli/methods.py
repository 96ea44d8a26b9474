"""`compare-methods`: the four families with the same data, seed and budget, ending in one table."""

from __future__ import annotations

import argparse
from typing import Any

from studio.cli.output import print_json, print_table, say, show_loss
from studio.cli.serve import ensure_starter
from studio.cli.train import add_spec_arguments, add_watch_arguments, plan_run, read_checked_spec, watch_run
from studio.core.paths import StudioHome
from studio.core.units import show_bytes, show_count, show_duration
from studio.jobs.families import family_table, start_family_runs
from studio.jobs.queue import TRAIN_MODULE
from studio.jobs.store import read_run


def add_verbs(verbs: Any) -> None:
    parser = verbs.add_parser(
        "compare-methods", help="train LoRA, QLoRA, Adapters and Prefix-Tuning alike, and compare them in one table",
        description="Queues four runs with the same base, data, seed and budget; the learning rate is each family's own.",
        epilog="example: python -m studio compare-methods quickstart --set training.max_steps=40",
    )  # fmt: skip
    add_spec_arguments(parser)
    add_watch_arguments(parser)
    parser.set_defaults(verb=run_compare_methods)


def run_compare_methods(options: argparse.Namespace, home: StudioHome) -> int:
    spec = read_checked_spec(options.spec, options.set)
    ensure_starter(home, spec)
    ids = start_family_runs(home, spec, lambda variant: plan_run(variant, home), TRAIN_MODULE)
    say("\n".join(["Queued", *ids]))
    if not options.detach:
        for run_id in ids:
            watch_run(home, run_id)
    rows = family_table([read_run(home, run_id) for run_id in ids])
    if options.json:
        print_json(rows)
        return 0
    print_table(
        ("METHOD", "STATUS", "TRAINED", "PEAK MEMORY", "PLANNED", "SAMPLES/S", "HELD-OUT LOSS", "ADAPTER", "TIME"),
        [
            (
                row["family"], row["status"], _show(row["trainable_parameters"], show_count), _show(row["peak_memory_bytes"], show_bytes),
                _show(row["planned_memory_bytes"], show_bytes), _show(row["samples_per_s"], "{:.3g}".format),
                f"{show_loss(row['eval_loss_before'])} → {show_loss(row['eval_loss_after'])}", _show(row["adapter_bytes"], show_bytes),
                _show(row["seconds"], show_duration),
            )
            for row in rows
        ],
    )  # fmt: skip
    return 0 if options.detach or all(row["status"] in ("finished", "stopped") for row in rows) else 1


def _show(value: Any, show: Any) -> str:
    return "–" if value is None else show(value)
