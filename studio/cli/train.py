"""`train`, `resume`: start a run through the same queue as the page, and watch it."""

from __future__ import annotations

import argparse
from typing import Any

from studio.cli.output import ProgressLine, print_json, say, show_loss
from studio.cli.serve import ensure_starter
from studio.core.catalog import read_spec
from studio.core.errors import SpecError, from_json
from studio.core.paths import StudioHome
from studio.core.records import RunStatus
from studio.core.spec import RunSpec, with_overrides
from studio.core.units import show_duration
from studio.jobs import runner
from studio.jobs.queue import TRAIN_MODULE
from studio.jobs.store import read_log, read_result, read_spec_of, read_status


def add_verbs(verbs: Any) -> None:
    train = verbs.add_parser(
        "train", help="train a preset or a spec file",
        description="Train through the home's queue. Ctrl-C stops and saves; a second Ctrl-C cancels.",
        epilog="example: python -m studio train quickstart --set method.rank=4 --set training.max_steps=20",
    )  # fmt: skip
    add_spec_arguments(train)
    add_watch_arguments(train)
    train.set_defaults(verb=run_train)
    resume = verbs.add_parser(
        "resume", help="go on with a run from a checkpoint, or extend a finished one",
        epilog="example: python -m studio resume RUN --steps 200",
    )  # fmt: skip
    resume.add_argument("run", metavar="RUN")
    resume.add_argument("--checkpoint", help="a checkpoint's name or step; the last when left out")
    resume.add_argument("--steps", type=int, help="new total of steps")
    resume.add_argument("--epochs", type=float, help="new total of epochs")
    add_watch_arguments(resume)
    resume.set_defaults(verb=run_resume)


def add_spec_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC_OR_PRESET", help="a preset's name or a spec as a JSON file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting: training.max_steps=40")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")


def add_watch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detach", action="store_true", help="return at once; the run goes on")
    if not any(action.dest == "json" for action in parser._actions):
        parser.add_argument("--json", action="store_true", help="one JSON object as the last line")


def read_checked_spec(source: str, changes: list[str]) -> RunSpec:
    """The spec named on the command line with its changes. Raises SpecError with every problem."""
    return RunSpec.parse(with_overrides(read_spec(source), changes))


def plan_run(spec: RunSpec, home: StudioHome) -> dict[str, Any]:
    """The plan as JSON. Raises SpecError where the settings do not fit the model."""
    from studio.data.measured import measured_size
    from studio.models.hardware import detect_hardware
    from studio.models.plan import check, make_plan
    from studio.models.shape import find_shape

    shape = find_shape(spec.model.id, home)
    problems = check(spec, shape)
    if problems:
        raise SpecError(problems)
    return make_plan(spec, shape, detect_hardware(), measured_size(home, spec)).to_json()


def run_train(options: argparse.Namespace, home: StudioHome) -> int:
    spec = read_checked_spec(options.spec, options.set)
    ensure_starter(home, spec)
    run_id = runner.start_run(home, spec.named(), plan_run(spec, home), TRAIN_MODULE)
    return _report(options, home, run_id)


def run_resume(options: argparse.Namespace, home: StudioHome) -> int:
    from studio.data.unchanged import require_same_data

    paths = home.run(options.run)
    require_same_data(home, read_spec_of(paths).data, paths)
    if options.steps is not None or options.epochs is not None:
        runner.extend_run(home, options.run, epochs=options.epochs, max_steps=options.steps, module=TRAIN_MODULE)
    else:
        runner.resume_run(home, options.run, options.checkpoint, module=TRAIN_MODULE)
    return _report(options, home, options.run)


def _report(options: argparse.Namespace, home: StudioHome, run_id: str) -> int:
    """Say what was started, watch it unless detached, and say how it ended. 1 where it did not end with an adapter."""
    say(f"Run {run_id}")
    if options.detach:
        status = read_status(home.run(run_id))
        if status is RunStatus.QUEUED:
            say("It waits for its turn: a studio or a watching command on this home will start it.")
        if options.json:
            print_json({"run": run_id, "status": status.value})
        return 0
    status = watch_run(home, run_id)
    result = read_result(home.run(run_id))
    if options.json:
        print_json({"run": run_id, **(result.to_json() if result else {}), "status": status.value})
    if result and result.error:
        raise from_json(result.error)
    if status is RunStatus.LOST:
        say(f"The run's process died without a word. The end of its log:\n{read_log(home.run(run_id), 2000)}")
    elif result:
        losses = f"eval loss {show_loss(result.eval_loss_before)} → {show_loss(result.eval_loss_after)}"
        say(f"{status.value}: {result.steps} steps, {losses}, {show_duration(result.seconds)}")
    return 0 if status in (RunStatus.FINISHED, RunStatus.STOPPED) else 1


def watch_run(home: StudioHome, run_id: str) -> RunStatus:
    """Show a run's progress until it is over. The first Ctrl-C asks it to save and end, the next cancels it."""
    line = ProgressLine(home.run(run_id))
    interrupted = 0
    status = read_status(home.run(run_id))
    while not status.is_over:
        try:
            for status in runner.wait_for_run(home, run_id, module=TRAIN_MODULE):
                line.show(status.value)
        except KeyboardInterrupt:
            interrupted += 1
            status = read_status(home.run(run_id))
            if status.is_over:
                break
            if interrupted == 1:
                status = runner.stop_run(home, run_id)
                say("\nStopping: the run saves its adapter and ends. Ctrl-C again cancels it.")
            else:
                status = runner.cancel_run(home, run_id)
    line.close()
    return status
