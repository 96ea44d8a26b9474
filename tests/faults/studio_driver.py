"""`python -m studio_driver HOME RUNS STEPS NAME`: a studio without a page: starts scripted runs, keeps the queue going."""

from __future__ import annotations

import sys
import time

from studio.core.paths import StudioHome
from studio.core.spec import RunSpec
from studio.jobs import runner
from studio.jobs.queue import QueueThread

MODULE = "scripted_child"


def main(root: str, runs: str, steps: str, name: str) -> None:
    home = StudioHome.find(root)
    QueueThread(home, MODULE, every_s=0.02).start()
    for number in range(int(runs)):
        spec = RunSpec.parse({"name": f"{name} {number}", "data": {"system_prompt": "0.004"}, "training": {"max_steps": int(steps)}})
        runner.start_run(home, spec, module=MODULE)
    print("started", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
