"""`python -m studio.train RUN_DIR [--resume CHECKPOINT]`: train one run in this process; the child that studio.jobs starts.

Says first who it is (process.json), and last, whatever happens, how it ended (result.json). What it prints is the run's log. The
process that started it may die: nothing here depends on it. Exit code 0: finished or stopped; 1: failed.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
import warnings
from pathlib import Path

from studio.core.errors import RunError, StudioError
from studio.core.files import read_json, read_lines, write_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunResult, RunStatus, StepRecord, losses_around
from studio.core.spec import RunSpec
from studio.train.process import Place, claim_run, keep_few_primitives, stop_on_signal, wait_asleep


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m studio.train", description="Train one run of the studio.")
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="the run's folder, with its spec.json")
    parser.add_argument("--resume", type=Path, metavar="CHECKPOINT", help="a checkpoint folder of this run")
    parser.add_argument("--home", type=Path, help="the studio's home; the one the run lies in when left out")
    options = parser.parse_args(arguments)
    paths = RunPaths(options.run.resolve())
    try:
        claim_run(paths)
    except StudioError as error:
        print(error, file=sys.stderr)
        return 1
    place = Place(paths)
    stop_on_signal(paths)
    wait_asleep()
    keep_few_primitives()
    result = work(paths, options.resume, options.home)
    try:
        place.check()
    except StudioError as error:  # a result under the old path would make a folder there that is no run
        place.sweep()
        print(f"failed: {error}", flush=True)
        return 1
    return end(paths, result)


def work(paths: RunPaths, resume: Path | None, home: Path | None) -> RunResult:
    """How the run ended, as its result; never raises but for a request to exit."""
    started = time.monotonic()
    # Addressed to the libraries' authors, not to the person who reads the run's log.
    warnings.simplefilter("ignore", FutureWarning)
    try:
        if resume is not None:
            paths.result.unlink(missing_ok=True)
        data = read_json(paths.spec)
        if data is None:
            raise RunError(f"{paths.spec} is missing or no JSON.", "Start the run from the studio.")
        spec = RunSpec.parse(data)
        # torch and transformers: seconds, so only now. Silenced before peft imports bitsandbytes, which logs at import.
        from studio.models.quiet import quiet_libraries

        quiet_libraries()
        from studio.train.run import train

        return train(spec, paths, StudioHome(home.resolve() if home else paths.folder.parents[1]), resume)
    except StudioError as error:
        print(f"failed: {error}", flush=True)
        return failed(paths, error, started)
    except Exception as error:  # noqa: BLE001 - the edge of the process: every end is written down
        traceback.print_exc()
        return failed(paths, StudioError(f"An unexpected error: {type(error).__name__}: {error}.", "The log has the details."), started)


def failed(paths: RunPaths, error: StudioError, started: float) -> RunResult:
    """A failed run's result, with as much of its curve as was written."""
    records = [StepRecord.from_json(line) for line in read_lines(paths.metrics)[0]]
    before, after = losses_around((record.step, record.eval_loss) for record in records if record.eval_loss is not None)
    last = records[-1] if records else StepRecord(0)
    return RunResult(
        status=RunStatus.FAILED,
        steps=last.step,
        eval_loss_before=before,
        eval_loss_after=after,
        tokens=int(last.tokens),
        seconds=round(last.seconds or time.monotonic() - started, 3),
        error=error.to_json(),
    )


def end(paths: RunPaths, result: RunResult) -> int:
    """Write the last phase and then result.json; where even that fails, the log says so and the exit code is 1."""
    try:
        write_json(paths.progress, {**(read_json(paths.progress) or {}), "phase": result.status.value})
        write_json(paths.result, result.to_json())
    except StudioError as error:
        print(f"the result could not be written: {error}", flush=True)
        return 1
    print(f"{time.strftime('%H:%M:%S')}  {result.status.value}", flush=True)
    return 0 if result.status is not RunStatus.FAILED else 1


if __name__ == "__main__":
    sys.exit(main())
