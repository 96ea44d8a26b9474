"""The four families and int8 LoRA on the starter model: same data, seed and steps, and what each learnt and took.

    python tests/benchmarks/evidence.py --home FOLDER [--seeds 3] [--only NAME ...] [--rows 240] [--held-out 64] [--json]

Each run is a real `python -m studio.train` in FOLDER, with the specs that `studio compare-methods` queues: every family at its own
defaults and its own learning rate, one epoch, batches of 4. A finished run in FOLDER is not run again, so an interrupted comparison
goes on where it was, and families may have different numbers of seeds. The table holds all that FOLDER holds.

Held-out loss is nats per answer token, mean and (lowest to highest) over seeds. Memory is the peak of the training process as the run
records it. CPU seconds per sample are the process's own CPU time between the first and the last training step, so a busy machine
changes them little; wall seconds, from start to end with evaluations, it changes a lot.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from studio.core.files import read_json, read_lines, write_json  # noqa: E402
from studio.core.paths import RunPaths, StudioHome  # noqa: E402
from studio.core.spec import RunSpec  # noqa: E402
from studio.core.units import show_bytes, show_count  # noqa: E402
from studio.jobs.families import family_variants  # noqa: E402
from tests.benchmarks.plan_memory import make_home  # noqa: E402

BATCH = 4
LENGTH = 384
POLL_S = 0.5
FIGURES = "evidence.json"
"""Within a run's folder: its figures, written last; a run without them is run again."""


def make_specs(seed: int, rows: int, held_out: int) -> dict[str, RunSpec]:
    """Name -> spec: what `compare-methods` queues, and LoRA over int8 as the lecture holds its base."""
    start = RunSpec.parse({
        "data": {"max_rows": rows, "max_held_out_rows": held_out},
        "training": {"batch_size": BATCH, "max_length": LENGTH, "seed": seed, "eval_every": 10**6},
    })  # fmt: skip
    specs = {spec.method.family: spec for spec in family_variants(start)}
    held_in_int8 = start.model.model_copy(update={"quantization": "int8"})
    return {"lora": specs.pop("lora"), "lora int8": start.model_copy(update={"model": held_in_int8}), **specs}


def train(spec: RunSpec, paths: RunPaths) -> dict[str, Any]:
    """Run one training child to its end; its figures."""
    shutil.rmtree(paths.folder, ignore_errors=True)
    paths.folder.mkdir(parents=True)
    write_json(paths.spec, spec.to_json())
    began = time.monotonic()
    with paths.log.open("w") as log:
        child = subprocess.Popen([sys.executable, "-m", "studio.train", str(paths.folder)], cwd=REPOSITORY, stdout=log, stderr=log)
        cpu_s = watch_cpu(child, paths)
    result = read_json(paths.result) or {}
    if result.get("status") != "finished":
        raise SystemExit(f"{paths.id} did not train: {paths.log.read_text()[-1000:]}")
    kept = ("eval_loss_before", "eval_loss_after", "peak_memory_bytes", "trainable_parameters", "adapter_bytes", "samples", "steps")
    figures = {name: result[name] for name in kept}
    return figures | {"cpu_s_per_sample": cpu_s, "wall_s": round(time.monotonic() - began, 1)}


def watch_cpu(child: subprocess.Popen[bytes], paths: RunPaths) -> float:
    """CPU seconds per sample between the first training step and the last one seen, polled until the child ends."""
    process, size, seen = psutil.Process(child.pid), 0, {}
    while child.poll() is None:
        time.sleep(POLL_S)
        grown = paths.metrics.stat().st_size if paths.metrics.exists() else 0
        if grown == size:
            continue
        size = grown
        step = max((line["step"] for line in read_lines(paths.metrics)[0] if line.get("loss") is not None), default=0)
        if step and step not in seen:
            times = process.cpu_times()
            seen[step] = times.user + times.system
    if len(seen) < 2:
        return float("nan")
    return (seen[max(seen)] - seen[min(seen)]) / (BATCH * (max(seen) - min(seen)))


def collect(home: StudioHome, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Run what is missing, seed by seed; then every figure the home holds, by name."""
    names = list(make_specs(1, options.rows, options.held_out))
    for seed in range(1, options.seeds + 1):
        for name, spec in make_specs(seed, options.rows, options.held_out).items():
            paths = run_paths(home, name, seed)
            if (options.only and name not in options.only) or is_done(paths, spec):
                continue
            figures = train(spec, paths)
            write_json(paths.folder / FIGURES, figures)
            print(f"{paths.id:20} {figures['eval_loss_before']:.4f} -> {figures['eval_loss_after']:.4f}  "
                  f"{figures['cpu_s_per_sample']:.2f} CPU s/sample  {figures['wall_s']:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
    folders = {name: sorted(home.runs.glob(f"{run_paths(home, name, 0).id[:-1]}*/{FIGURES}")) for name in names}
    return {name: [read_json(path) or {} for path in paths] for name, paths in folders.items() if paths}


def run_paths(home: StudioHome, name: str, seed: int) -> RunPaths:
    return RunPaths(home.runs / f"{name.replace(' ', '-')}_seed_{seed}")


def is_done(paths: RunPaths, spec: RunSpec) -> bool:
    return (paths.folder / FIGURES).exists() and read_json(paths.spec) == spec.to_json()


def summarise(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row per family: means over its seeds, and the spread of the loss."""
    rows = []
    for name, figures in runs.items():
        row: dict[str, Any] = {"name": name, "seeds": len(figures)}
        for key in figures[0]:
            row[key] = statistics.fmean(figure[key] for figure in figures)
        after = [figure["eval_loss_after"] for figure in figures]
        rows.append(row | {"eval_loss_after_lowest": min(after), "eval_loss_after_highest": max(after), "eval_loss_after_each": after})
    return rows


def compare(runs: dict[str, list[dict[str, Any]]], name: str, other: str = "lora") -> list[float]:
    """name's loss after training over other's, less 1, seed by seed."""
    pairs = zip(runs.get(name, []), runs.get(other, []), strict=False)
    return [figure["eval_loss_after"] / against["eval_loss_after"] - 1 for figure, against in pairs]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    heads = ("method", "seeds", "trained", "held-out loss before", "after (lowest to highest)", "peak memory", "CPU s/sample", "wall s")
    lines = [f"| {' | '.join(heads)} | adapter |", "|---" * 9 + "|"]
    for row in rows:
        spread = f" ({row['eval_loss_after_lowest']:.4f} to {row['eval_loss_after_highest']:.4f})" if row["seeds"] > 1 else ""
        cells = (
            row["name"], row["seeds"], show_count(round(row["trainable_parameters"])), f"{row['eval_loss_before']:.4f}",
            f"{row['eval_loss_after']:.4f}{spread}", show_bytes(round(row["peak_memory_bytes"])), f"{row['cpu_s_per_sample']:.2f}",
            f"{row['wall_s']:.0f}", show_bytes(round(row["adapter_bytes"])),
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="where the runs are made and kept; made when missing")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to N of every family")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="lora, 'lora int8', qlora, adapter, prefix")
    parser.add_argument("--rows", type=int, default=240, help="training pairs")
    parser.add_argument("--held-out", type=int, default=64, help="held-out pairs")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args()
    runs = collect(make_home(options.home), options)
    rows, gaps = summarise(runs), {name: compare(runs, name) for name in ("qlora", "lora int8")}
    if options.json:
        print(json.dumps({"rows": rows, "against_lora": gaps}))
        return
    print(table(rows))
    for name, found in gaps.items():
        print(f"{name} against lora, held-out loss by seed: {', '.join(f'{100 * gap:+.2f} %' for gap in found)}")


if __name__ == "__main__":
    main()
