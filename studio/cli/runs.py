"""`runs`, `show`, `stop`, `cancel`, `delete`, `restore`, `move`: the runs there are, and what can be done to them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from studio.cli.output import print_json, print_table, say, show_loss
from studio.core.paths import StudioHome
from studio.core.units import show_bytes, show_count, show_duration
from studio.jobs import notes, queue, runner, store


def add_verbs(verbs: Any) -> None:
    runs = verbs.add_parser("runs", help="list the runs of this home, newest first")
    runs.add_argument("--json", action="store_true", help="all figures as one JSON list")
    runs.set_defaults(verb=run_list)
    show = _add_run_verb(verbs, "show", run_show, "all that is known of a run")
    show.add_argument("--json", action="store_true")
    _add_run_verb(verbs, "stop", run_stop, "let a run save its adapter and end")
    _add_run_verb(verbs, "cancel", run_cancel, "end a run at once and keep nothing of it")
    _add_run_verb(verbs, "delete", run_delete, "move a run to the trash")
    _add_run_verb(verbs, "restore", run_restore, "take a run back from the trash")
    empty = verbs.add_parser("empty-trash", help="delete the runs in the trash for good, after saying how many and how large")
    empty.add_argument("--yes", action="store_true", help="do not ask")
    empty.set_defaults(verb=run_empty_trash)
    move = _add_run_verb(verbs, "move", run_move, "change when a waiting run starts")
    move.add_argument("position", type=int, help="0 starts next")


def _add_run_verb(verbs: Any, name: str, verb: Callable[..., int], text: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".")
    parser.add_argument("run", metavar="RUN", help="the run's id, as `runs` lists it")
    parser.set_defaults(verb=verb)
    return parser


def run_list(options: argparse.Namespace, home: StudioHome) -> int:
    found = store.list_runs(home)
    if options.json:
        print_json([{**asdict(run), "status": run.status.value, "created": run.created.isoformat()} for run in found])
        return 0
    if not found:
        say("There are no runs yet: `python -m studio train quickstart` makes the first.")
        return 0
    print_table(
        ("RUN", "STATUS", "METHOD", "MODEL", "STEPS", "EVAL LOSS", "TIME"),
        (
            (
                run.id, run.status.value, run.family, run.model, f"{run.steps}/{run.total_steps or '–'}",
                f"{show_loss(run.eval_loss_before)} → {show_loss(run.eval_loss_after)}", show_duration(run.seconds),
            )
            for run in found
        ),
    )  # fmt: skip
    return 0


def run_show(options: argparse.Namespace, home: StudioHome) -> int:
    record = store.read_run(home, options.run)
    result = record.result
    if options.json:
        print_json({
            "run": record.id, "name": record.name, "status": record.status.value, "created": record.created.isoformat(),
            "folder": str(record.paths.folder), "spec": record.spec.to_json(), "progress": asdict(record.progress),
            "result": result.to_json() if result else None, "plan": record.plan, "environment": record.environment,
            "notes": asdict(record.notes), "checkpoints": [path.name for path in runner.list_checkpoints(record.paths)],
        })  # fmt: skip
        return 0
    print(f"{record.name}: {record.status.value}, {record.progress.step}/{record.progress.total_steps or '–'} steps\n{record.paths.folder}")
    if result:
        print(f"eval loss {show_loss(result.eval_loss_before)} → {show_loss(result.eval_loss_after)}, {show_duration(result.seconds)}")
        print(
            f"{show_count(result.trainable_parameters)} of {show_count(result.total_parameters)} parameters trained, "
            f"{show_bytes(result.peak_memory_bytes)} at the peak, adapter {show_bytes(result.adapter_bytes)}"
        )
    for name in record.damaged:
        print(f"{name} holds values that no run writes; they are left out here.")
    if result and result.error:
        print(f"{result.error.get('message', '')} {result.error.get('hint', '')}".strip())
    found = runner.list_checkpoints(record.paths)
    if found:
        print(f"checkpoints: {', '.join(path.name for path in found)}")
    print(json.dumps(record.spec.to_json(), indent=2, ensure_ascii=False))
    if record.status.value in ("failed", "lost"):
        print(f"the end of the log:\n{store.read_log(record.paths, 2000).strip()}")
    return 0


def run_stop(options: argparse.Namespace, home: StudioHome) -> int:
    print(f"{options.run}: {runner.stop_run(home, options.run).value}")
    return 0


def run_cancel(options: argparse.Namespace, home: StudioHome) -> int:
    print(f"{options.run}: {runner.cancel_run(home, options.run).value}")
    return 0


def run_delete(options: argparse.Namespace, home: StudioHome) -> int:
    notes.delete_run(home, options.run)
    print(f"{options.run} is in the trash; `python -m studio restore {options.run}` takes it back.")
    return 0


def run_restore(options: argparse.Namespace, home: StudioHome) -> int:
    notes.restore_run(home, options.run)
    print(f"{options.run} is back.")
    return 0


def run_empty_trash(options: argparse.Namespace, home: StudioHome) -> int:
    size = notes.measure_trash(home)
    if not size.runs:
        print("The trash is empty.")
        return 0
    if not options.yes:
        print(f"In the trash: {size.sentence} Nothing brings them back. Type yes to delete them: ", end="", flush=True)
        if sys.stdin.readline().strip().lower() != "yes":
            print("Kept.")
            return 1
    print(f"Deleted for good: {notes.empty_trash(home).sentence}")
    return 0


def run_move(options: argparse.Namespace, home: StudioHome) -> int:
    for place, run_id in enumerate(queue.move_in_queue(home, options.run, options.position)):
        print(f"{place}  {run_id}")
    return 0
