"""How fast the Runs tab is on a long history and on long runs: `python tests/benchmarks/runs.py [--json]`.

Makes a home with 1,000 runs, one of 100,000 and one of 50,000 logged steps, and measures in this process what the server does: list the
runs and draw the list's first page; draw a run of 100,000 steps from nothing; draw one of 50,000 steps again after a line was added,
and the bytes its update sends. The limits are issue 6's and issue 2's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from studio.core.files import write_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunResult, RunStatus
from studio.core.spec import RunSpec
from studio.jobs import metrics, store
from studio.ui import runs, runs_list
from studio.ui.studio import Studio

RUNS = 1_000
LIMITS = {"list_s": 1.0, "plot_100k_s": 0.3, "update_50k_s": 0.1, "update_50k_bytes": 300_000}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(StudioHome.find(folder))
    for name, value in figures.items():
        limit = LIMITS.get(name)
        print(f"{name:24} {value:12,.4g}" + (f"   limit {limit:,}" if limit else ""), file=sys.stderr)
    if options.json:
        print(json.dumps(figures))
    return 0 if all(figures[name] <= limit for name, limit in LIMITS.items()) else 1


def measure(home: StudioHome) -> dict[str, float]:
    for number in range(RUNS):
        make_run(home, f"{number:04d}", 60)
    large = make_run(home, "large", 100_000)
    studio = Studio(home)
    blank = runs.Looked("")
    draw_warm(studio, blank)  # imports plotly
    figures: dict[str, float] = {"runs": len(store.run_folders(home))}
    store._summaries._kept.clear()
    figures["list_s"], listed = timed(lambda: runs_list.list_html(store.list_runs(home), ""))
    figures["list_again_s"], _ = timed(lambda: runs_list.list_html(store.list_runs(home), ""))
    figures["list_bytes"] = len(listed.encode())
    figures["plot_100k_s"] = min(_cold_draw(studio, large) for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        alone = StudioHome.find(folder)
        figures |= update(Studio(alone), make_run(alone, "live", 50_000))
    return figures


def draw_warm(studio: Studio, looked: runs.Looked) -> list[Any]:
    return runs.draw(studio, looked)


def _cold_draw(studio: Studio, paths: RunPaths) -> float:
    """Seconds from picking a run nobody has looked at to all its values; the list is not part of it."""
    metrics._tables.clear()
    looked = runs.Looked(paths.id)
    return timed(lambda: runs.show(studio, looked, True))[0]


def update(studio: Studio, paths: RunPaths) -> dict[str, float]:
    """Seconds and bytes of one tick after a step was logged, list included."""
    looked = runs.Looked(paths.id)
    first = runs.draw(studio, looked)
    seconds = []
    for step in range(50_001, 50_006):
        with paths.metrics.open("ab") as file:
            file.write(orjson.dumps(step_line(step)) + b"\n")
        looked = looked._replace(seen=first[0], seen_list=first[1])
        spent, first = timed(lambda at=looked: runs.draw(studio, at))  # type: ignore[misc]
        seconds.append(spent)
    idle, _ = timed(lambda: runs.draw(studio, looked._replace(seen=first[0], seen_list=first[1])))
    return {"update_50k_s": sorted(seconds)[2], "update_50k_bytes": wire_bytes(first), "idle_tick_s": idle}


def wire_bytes(values: list[Any]) -> int:
    """Length of the update as the page receives it: figures as plotly's JSON inside a JSON string, the rest as JSON."""
    return sum(len(orjson.dumps(_sent(value))) for value in values)


def _sent(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sent(item) for key, item in value.items()}
    return {"type": "plotly", "plot": value.to_json()} if hasattr(value, "to_json") else value


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def step_line(step: int) -> dict[str, Any]:
    return {
        "step": step, "epoch": round(step / 5000, 4), "loss": 2.0 / (1 + step / 2000) + (step * 7919 % 101) / 500,
        "learning_rate": 1e-3 / (1 + step / 1e5), "grad_norm": 1 + (step * 104729 % 97) / 100, "tokens": step * 1100,
        "tokens_per_s": 600 + step % 37, "memory_bytes": 700_000_000 + step * 10, "seconds": step * 1.7,
    }  # fmt: skip


def make_run(home: StudioHome, name: str, steps: int) -> RunPaths:
    paths = RunPaths(home.runs / f"20260101-000000-{name}")
    paths.folder.mkdir()
    write_json(paths.spec, RunSpec(name=name).to_json())
    write_json(paths.plan, {"memory_bytes": 700_000_000, "trainable_parameters": 2_442_240, "total_parameters": 136_957_248})
    lines = [orjson.dumps(step_line(step)) for step in range(1, steps + 1)]
    every = max(1, steps // 5)
    lines += [orjson.dumps({"step": step, "eval_loss": 2.0 / (1 + step / 2000)}) for step in range(every, steps + 1, every)]
    paths.metrics.write_bytes(b"\n".join(sorted(lines, key=lambda line: orjson.loads(line)["step"])) + b"\n")
    result = RunResult(
        RunStatus.FINISHED, steps, 2.0, 1.0, 1.0, steps * 1100, steps * 8, steps * 1.7, 2_442_240, 136_957_248, 700_000_000, 9_000_000
    )
    write_json(paths.result, result.to_json())
    return paths


if __name__ == "__main__":
    sys.exit(main())
