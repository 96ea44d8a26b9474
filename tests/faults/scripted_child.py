"""A training child of a few milliseconds a step: writes the files a real one writes, and learns nothing.

`python -m scripted_child RUN_DIR [--resume CHECKPOINT]`, with this folder on PYTHONPATH. The steps are training.max_steps of the
spec; the script is data.system_prompt (a field that means nothing here): the pause between two steps in seconds, then `deaf` to ignore a
request to stop. `die` alone ends at once. The log says when it began and ended, in seconds of the machine's monotonic clock.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import psutil

from studio.core.errors import StudioError
from studio.core.files import append_line, read_json, write_json
from studio.core.paths import RunPaths
from studio.core.records import Progress, RunResult, RunStatus, StepRecord
from studio.core.spec import RunSpec


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume", type=Path)
    arguments = parser.parse_args()
    paths = RunPaths(arguments.folder.resolve())
    print(f"begin {time.monotonic()} pid {os.getpid()}", flush=True)
    write_json(paths.process, {"pid": os.getpid(), "started": psutil.Process().create_time()})
    spec = RunSpec.parse(read_json(paths.spec) or {})
    script = spec.data.system_prompt.split()
    if "die" in script:
        print("about to die", flush=True)
        os._exit(9)
    pause_s = float(script[0]) if script else 0.002
    first = int(arguments.resume.name.split("-")[1]) + 1 if arguments.resume else 1
    try:
        return finish(paths, spec, first, pause_s, "deaf" in script)
    except StudioError as error:
        print(error, flush=True)
        write_json(paths.result, RunResult(RunStatus.FAILED, error=error.to_json()).to_json())
        return 1


def finish(paths: RunPaths, spec: RunSpec, first: int, pause_s: float, deaf: bool) -> int:
    status = train(paths, first, spec.training.max_steps or 20, pause_s, deaf)
    write_json(paths.adapter / "adapter_config.json", {"complete": True})
    write_json(paths.result, RunResult(status, steps=(read_json(paths.progress) or {})["step"]).to_json())
    print(f"end {time.monotonic()}", flush=True)
    return 0


def train(paths: RunPaths, first: int, total: int, pause_s: float, deaf: bool) -> RunStatus:
    for step in range(first, total + 1):
        append_line(paths.metrics, StepRecord(step=step, loss=1 / step, tokens=step * 10).to_json())
        write_json(paths.progress, vars(Progress("training", step, total)))
        if step % 5 == 0:
            write_json(paths.checkpoints / f"step-{step:06d}" / "state.json", {"step": step, "complete": True})
        if paths.stop.exists() and not deaf:
            return RunStatus.STOPPED
        time.sleep(pause_s)
    return RunStatus.FINISHED


if __name__ == "__main__":
    sys.exit(main())
