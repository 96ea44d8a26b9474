"""Planned against measured peak memory of the training process, on the starter model: families x (batch, length).

    python tests/benchmarks/plan_memory.py [--json] [--only NAME ...]

Each case is a real `python -m studio.train` in a home of its own: a few steps padded to the full length, so that every batch is as large
as the plan assumes; and, as `varied`, 40 steps of starter pairs as long as they are, in batches of like length, as people train.
Measured is the kernel's own record of the process's peak resident memory. The last line says the worst and the median error; --json
prints everything as one line. Memory hardly depends on what else runs here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from studio.core.files import read_json, write_json  # noqa: E402
from studio.core.paths import RunPaths, StudioHome  # noqa: E402
from studio.core.spec import RunSpec  # noqa: E402
from studio.data.starter import ensure_starter_data  # noqa: E402
from studio.models.hardware import detect_hardware  # noqa: E402
from studio.models.plan import make_plan  # noqa: E402
from studio.models.shape import find_shape  # noqa: E402
from studio.models.starter import ensure_starter_model  # noqa: E402

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": {"family": "lora"}},
    "lora int8": {"method": {"family": "lora"}, "model": {"quantization": "int8"}},
    "qlora nf4": {"method": {"family": "qlora"}},
    "adapter": {"method": {"family": "adapter"}},
    "prefix": {"method": {"family": "prefix"}},
}
SIZES = ((4, 128), (8, 256), (4, 512))
STEPS = 3
VARIED = (4, 256)
VARIED_STEPS = 40


def cases() -> dict[str, dict[str, Any]]:
    """Name -> spec as plain data."""
    found = {}
    for name, parts in METHODS.items():
        for batch, length in SIZES:
            training = {"batch_size": batch, "max_length": length, "max_steps": STEPS, "eval_every": STEPS}
            training |= {"padding": "fixed", "too_long": "cut"}
            data = {"max_rows": batch * STEPS, "max_held_out_rows": batch}
            found[f"{name} {batch}x{length}"] = {**parts, "training": training, "data": data}
        batch, length = VARIED
        training = {"batch_size": batch, "max_length": length, "eval_every": VARIED_STEPS}
        data = {"max_rows": batch * VARIED_STEPS, "max_held_out_rows": 4 * batch}
        found[f"{name} {batch}x{length} varied"] = {**parts, "training": training, "data": data}
    return found


def measure(name: str, data: dict[str, Any], home: StudioHome) -> dict[str, Any]:
    """Plan and train one case."""
    spec = RunSpec.parse(data)
    planned = make_plan(spec, find_shape("starter", home), detect_hardware()).memory_bytes
    paths = RunPaths(home.runs / name.replace(" ", "-"))
    paths.folder.mkdir(parents=True)
    write_json(paths.spec, spec.to_json())
    command = [sys.executable, "-m", "studio.train", str(paths.folder)]
    with paths.log.open("w") as log:
        child = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT)
        _, _, usage = os.wait4(child.pid, 0)
    if (read_json(paths.result) or {}).get("status") != "finished":
        raise SystemExit(f"{name} did not train: {paths.log.read_text()[-1000:]}")
    measured = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"case": name, "planned_bytes": planned, "measured_bytes": measured, "error": planned / measured - 1}


def make_home(folder: Path) -> StudioHome:
    """A home with the user's starter model in it, and the starter data; one that is there already is used as it is."""
    home = StudioHome.find(folder)
    home.models.mkdir(parents=True, exist_ok=True)
    if not home.starter_model.exists():
        home.starter_model.symlink_to(ensure_starter_model(StudioHome.find(), print), target_is_directory=True)
    ensure_starter_data(home, lambda _: None)
    return home


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="everything as one last line")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="cases whose name begins so, or ends so")
    options = parser.parse_args()
    only = tuple(options.only)
    chosen = {name: data for name, data in cases().items() if not only or name.startswith(only) or name.endswith(only)}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = make_home(Path(folder))
        for name, data in chosen.items():
            row = measure(name, data, home)
            rows.append(row)
            print(f"{name:23} planned {row['planned_bytes'] / 1e9:6.2f} GB  measured {row['measured_bytes'] / 1e9:6.2f} GB  "
                  f"{100 * row['error']:+6.1f} %", flush=True)  # fmt: skip
    errors = [abs(row["error"]) for row in rows]
    summary = {"worst_error": max(errors), "median_error": statistics.median(errors), "cases": rows}
    print(f"worst {100 * summary['worst_error']:.1f} % (at most 15), median {100 * summary['median_error']:.1f} % (at most 8)")
    if options.json:
        print(json.dumps(summary))


if __name__ == "__main__":
    main()
