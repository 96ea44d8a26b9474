"""`compare`: one prompt, answered by base and adapted model. `demo`: the quickstart from training to three compared answers."""

from __future__ import annotations

import argparse
import time
from typing import Any

from studio.cli.output import print_json, say, show_loss
from studio.cli.serve import ensure_starter
from studio.cli.train import plan_run, read_checked_spec, watch_run
from studio.core.errors import RunError, from_json
from studio.core.paths import StudioHome
from studio.core.records import RunStatus
from studio.core.units import show_duration
from studio.jobs import runner
from studio.jobs.queue import TRAIN_MODULE
from studio.jobs.store import RunRecord, read_run
from studio.jobs.worker import Worker

DEMO_TOKENS = 160


def add_verbs(verbs: Any) -> None:
    compare = verbs.add_parser(
        "compare", help="answer a prompt with the base and with a run's adapter",
        epilog='example: python -m studio compare RUN --prompt "Write a Python function that adds two numbers."',
    )  # fmt: skip
    compare.add_argument("run", metavar="RUN")
    compare.add_argument("--prompt", required=True, metavar="TEXT")
    compare.add_argument("--max-new-tokens", type=int, default=256)
    compare.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    compare.add_argument("--seed", type=int, default=0, help="the same for both answers")
    compare.add_argument("--json", action="store_true", help="one JSON object as the last line")
    compare.set_defaults(verb=run_compare)
    demo = verbs.add_parser("demo", help="train the quickstart and compare three answers, without a browser")
    demo.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the quickstart")
    demo.add_argument("--json", action="store_true", help="the figures as one last line")
    demo.set_defaults(verb=run_demo)


def answer_prompts(home: StudioHome, record: RunRecord, prompts: list[str], sampling: dict[str, Any]) -> list[dict[str, Any]]:
    """Each prompt with the answers of base and adapted model, from one model in a worker that ends with this call."""
    if not record.paths.adapter.is_dir():
        raise RunError(f"Run {record.id} has no adapter to compare ({record.status.value}).", "Compare a finished or stopped run.")
    worker = Worker("studio.play", home.root / "logs" / "play.log", arguments=["--home", str(home.root)])
    try:
        worker.call(
            "load", model=record.spec.model.model_dump(mode="json"), quantization=record.spec.quantization,
            adapters={"adapted": str(record.paths.adapter)},
        )  # fmt: skip
        answers = []
        for prompt in prompts:
            done = worker.call("generate", panes=["base", "adapted"], prompt=prompt, sampling=sampling)
            base, adapted = done["panes"]
            answers.append({"prompt": prompt, "base": base["text"], "adapted": adapted["text"], "panes": [base, adapted]})
        return answers
    finally:
        worker.close()


def run_compare(options: argparse.Namespace, home: StudioHome) -> int:
    sampling = {"temperature": options.temperature, "max_new_tokens": options.max_new_tokens, "seed": options.seed}
    answers = answer_prompts(home, read_run(home, options.run), [options.prompt], sampling)
    if options.json:
        print_json({"run": options.run, **answers[0]})
    else:
        _print_answers(answers)
    return 0


def run_demo(options: argparse.Namespace, home: StudioHome) -> int:
    started = time.monotonic()
    spec = read_checked_spec("quickstart", options.set)
    ensure_starter(home, spec)
    run_id = runner.start_run(home, spec, plan_run(spec, home), TRAIN_MODULE)
    say(f"Run {run_id}")
    status = watch_run(home, run_id)
    record = read_run(home, run_id)
    result = record.result
    if result is None or status not in (RunStatus.FINISHED, RunStatus.STOPPED):
        if result and result.error:
            raise from_json(result.error)
        raise RunError(f"The run was {status.value}.", f"Its log: {record.paths.log}")
    say(f"eval loss {show_loss(result.eval_loss_before)} → {show_loss(result.eval_loss_after)} in {show_duration(result.seconds)}")
    answers = answer_prompts(home, record, list(spec.training.sample_prompts), {"max_new_tokens": DEMO_TOKENS})
    _print_answers(answers)
    if options.json:
        print_json({
            "run": run_id, "eval_loss_before": result.eval_loss_before, "eval_loss_after": result.eval_loss_after,
            "seconds": result.seconds, "samples_per_s": result.samples / result.seconds if result.seconds else 0.0,
            "total_seconds": round(time.monotonic() - started, 1),
            "prompts": [{key: answer[key] for key in ("prompt", "base", "adapted")} for answer in answers],
        })  # fmt: skip
    return 0


def _print_answers(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        print(f"\n── prompt\n{answer['prompt']}")
        for pane, title in ((answer["panes"][0], "base"), (answer["panes"][1], "adapted")):
            print(f"── {title}: {pane['tokens']} tokens, {pane['seconds']:.1f} s, ended by {pane['stopped_by']}\n{pane['text']}")
