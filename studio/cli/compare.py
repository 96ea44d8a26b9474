"""`compare`: one prompt, answered by base, adapters and quantized copies. `demo`: the quickstart from training to compared answers."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from studio.cli.output import print_json, say, show_loss
from studio.cli.serve import ensure_starter
from studio.cli.sources import add_sampling_arguments, add_source_arguments, read_named_sources, read_sampling
from studio.cli.train import plan_run, read_checked_spec, watch_run
from studio.core.errors import RunError, from_json
from studio.core.paths import StudioHome
from studio.core.records import RunStatus
from studio.core.units import show_duration
from studio.jobs import runner
from studio.jobs.queue import TRAIN_MODULE
from studio.jobs.store import read_run
from studio.jobs.worker import Worker
from studio.ui.conversation import BASE, Conversation
from studio.ui.play_ask import show_memory
from studio.ui.play_sources import RUN, Sources, read_sources

DEMO_TOKENS = 160
EXAMPLES = """\
examples:
  python -m studio compare RUN --prompt "Write a Python function that adds two numbers."
  python -m studio compare RUN1 RUN2 --adapter some/folder --prompt "..." --json
  python -m studio compare --model starter --prompt "..."                                      the base alone
  python -m studio compare starter --quantization none --quantization nf4 --prompt "..."       what NF4 changes
"""


class Asked(NamedTuple):
    """What a worker holds, as its `load` tells it, and the answers: prompt, panes, and what the worker says of the whole."""

    loaded: dict[str, Any]
    answers: list[dict[str, Any]]


def add_verbs(verbs: Any) -> None:
    compare = verbs.add_parser(
        "compare", help="answer a prompt with a base, adapters on it, and the base quantized", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_source_arguments(compare)
    compare.add_argument("--prompt", required=True, metavar="TEXT", help="- reads it from standard input")
    add_sampling_arguments(compare)
    compare.add_argument("--json", action="store_true", help="one JSON object as the last line")
    compare.set_defaults(verb=run_compare)
    demo = verbs.add_parser("demo", help="train the quickstart and compare three answers, without a browser")
    demo.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the quickstart")
    demo.add_argument("--json", action="store_true", help="the figures as one last line")
    demo.set_defaults(verb=run_demo)


def answer_prompts(home: StudioHome, sources: Sources, prompts: Sequence[str], sampling: dict[str, Any], strength: float = 1.0) -> Asked:
    """What is loaded, and each prompt with every pane's answer, from one worker that ends with this call."""
    worker = Worker("studio.play", home.root / "logs" / "play.log", arguments=["--home", str(home.root)])
    titles = {pane.id: pane.title for pane in sources.panes}
    try:
        loaded = worker.call("load", **sources.load)
        answers = []
        for prompt in prompts:
            messages = Conversation(sources.system, sources.panes).messages(BASE, prompt)
            done = worker.call("generate", panes=list(titles), messages=messages, sampling=sampling, strength=strength)
            panes = [{**answer, "title": titles[answer["pane"]]} for answer in done.pop("panes")]
            answers.append({"prompt": prompt, "panes": panes, **done})
        return Asked(loaded, answers)
    finally:
        worker.close()


def base_and_adapted(answer: dict[str, Any]) -> dict[str, str]:
    """The texts of the base and, where there is one, of the first pane beside it."""
    return dict(zip(("base", "adapted"), (pane["text"] for pane in answer["panes"]), strict=False))


def run_compare(options: argparse.Namespace, home: StudioHome) -> int:
    sampling = read_sampling(options)
    sources = read_named_sources(options, home)
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    loaded, (answer,) = answer_prompts(home, sources, [prompt], sampling, options.strength)
    if options.json:
        run = next((pane.id.removeprefix(RUN) for pane in sources.panes if pane.id.startswith(RUN)), None)
        print_json({"run": run, "model": sources.load["model"]["id"], "loaded": loaded, **base_and_adapted(answer), **answer})
    else:
        _print_answers([answer])
        say(f"In memory: {show_memory(loaded)}.")
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
    sources = read_sources(home, spec.model.id, spec.quantization, [RUN + run_id])
    _, answers = answer_prompts(home, sources, spec.training.sample_prompts, {"max_new_tokens": DEMO_TOKENS})
    _print_answers(answers)
    if options.json:
        print_json({
            "run": run_id, "eval_loss_before": result.eval_loss_before, "eval_loss_after": result.eval_loss_after,
            "seconds": result.seconds, "samples_per_s": result.samples / result.seconds if result.seconds else 0.0,
            "total_seconds": round(time.monotonic() - started, 1),
            "prompts": [{"prompt": answer["prompt"], **base_and_adapted(answer)} for answer in answers],
        })  # fmt: skip
    return 0


def _print_answers(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        print(f"\n── prompt\n{answer['prompt']}")
        for pane in answer["panes"]:
            print(f"── {pane['title']}: {pane['tokens']} tokens, {pane['seconds']:.1f} s, ended by {pane['stopped_by']}\n{pane['text']}")
