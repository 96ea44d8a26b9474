"""What calibrated rounding brings: the starter model in NF4 as it is and calibrated, before and after the same QLoRA training.

    python tests/benchmarks/calibration.py --home FOLDER [--tokens 5000] [--train] [--rows 96] [--held-out 32] [--seeds 1] [--json]

Calibrates the starter model on 256 training pairs, once; FOLDER keeps the result. Held-out loss is nats per answer token of the base as
a run loads it, without training, on the pairs of nf4_loss.py. So that it is seen what rounding for one kind of text does to another,
also nats per token on prose: the Python reference that comes with Python (pydoc_data), which calibration has not seen. With --train
every seed trains LoRA, QLoRA and QLoRA on the calibrated base with the settings of evidence.py, whose runs in FOLDER are used again.
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from studio.calibration import calibrate as room
from studio.core.files import read_json, write_json
from studio.core.paths import StudioHome
from studio.core.spec import DataSpec, ModelSpec, RunSpec
from studio.data.format import EncodedRow, encode_examples
from studio.data.load import load_data
from studio.models.load import load_base, load_tokenizer
from studio.train.process import trained_on_cpu
from tests.benchmarks import evidence
from tests.benchmarks.plan_memory import make_home

PROSE_ROWS, PROSE_TOKENS = 40, 256


def calibrated_model(home: StudioHome) -> tuple[Path, dict[str, Any]]:
    """The calibrated starter model in this home and what it says of itself; made when missing."""
    spec = room.calibration_spec(ModelSpec(), DataSpec())
    folder = home.models / f"{home.starter_model.name}-calibrated"
    stamp = room.read_stamp(folder)

    def report(share: float, phrase: str) -> None:
        print(f"{100 * share:3.0f} %  {phrase}", file=sys.stderr, flush=True)

    return folder, stamp or room.calibrate(spec, home, folder, report)


def held_out_pairs(home: StudioHome, tokens: int) -> list[EncodedRow]:
    """Held-out pairs with at least so many answer tokens in all: those of nf4_loss.py."""
    spec = RunSpec.parse({"data": {"max_held_out_rows": 1000}})
    encoded = encode_examples(load_data(spec.data, home).held_out, load_tokenizer(spec.model, home), spec.training)
    rows, count = [], 0
    for row in encoded.rows:
        if count < tokens:
            rows.append(row)
            count += sum(label != -100 for label in row.labels[1:])
    return rows


def prose(home: StudioHome) -> list[EncodedRow]:
    """Plain text, every token counted."""
    tokenizer = load_tokenizer(ModelSpec(), home)
    ids = tokenizer("\n\n".join(text for _, text in sorted(pydoc_data.topics.topics.items())))["input_ids"]
    parts = [ids[start : start + PROSE_TOKENS] for start in range(0, PROSE_TOKENS * PROSE_ROWS, PROSE_TOKENS)]
    return [EncodedRow(part, part) for part in parts]


def bases(folder: Path) -> dict[str, RunSpec]:
    def held(model: str, quantization: str) -> RunSpec:
        return RunSpec.parse({"model": {"id": model, "dtype": "bfloat16", "quantization": quantization}})

    return {"16 bits": held("starter", "none"), "NF4": held("starter", "nf4"), "NF4, calibrated": held(str(folder), "nf4")}


def measure(home: StudioHome, folder: Path, tokens: int) -> dict[str, dict[str, float]]:
    """Text -> base -> loss."""
    texts = {"held-out pairs": held_out_pairs(home, tokens), "prose": prose(home)}
    losses: dict[str, dict[str, float]] = {text: {} for text in texts}
    for name, spec in bases(folder).items():
        base = load_base(spec, home)
        for text, rows in texts.items():
            losses[text][name] = room.held_out_loss(base, rows)
            against = losses[text][name] / losses[text]["16 bits"] - 1
            print(f"{text:15} {name:16} {losses[text][name]:.4f}  {100 * against:+.2f} %", flush=True)
    return losses


def train(home: StudioHome, folder: Path, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Name -> figures, seed by seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(1, options.seeds + 1):
        specs = evidence.make_specs(seed, options.rows, options.held_out)
        data = specs["qlora"].to_json()
        calibrated = RunSpec.parse({**data, "model": {**data["model"], "id": str(folder)}})
        for name, spec in {"lora": specs["lora"], "qlora": specs["qlora"], "qlora calibrated": calibrated}.items():
            paths = evidence.run_paths(home, name, seed)
            if not evidence.is_done(paths, spec):
                write_json(paths.folder / evidence.FIGURES, evidence.train(spec, paths))
            figures = read_json(paths.folder / evidence.FIGURES) or {}
            found.setdefault(name, []).append(figures)
            against = [figures[part] / found["lora"][-1][part] - 1 for part in ("eval_loss_before", "eval_loss_after")]
            print(f"seed {seed}  {name:17} before {figures['eval_loss_before']:.4f} ({100 * against[0]:+.2f} % against lora)  "
                  f"after {figures['eval_loss_after']:.4f} ({100 * against[1]:+.2f} %)", flush=True)  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="where model and runs are made and kept; made when missing")
    parser.add_argument("--tokens", type=int, default=5000, help="answer tokens to measure on, at least")
    parser.add_argument("--train", action="store_true", help="also train on each base")
    parser.add_argument("--rows", type=int, default=96, help="training pairs")
    parser.add_argument("--held-out", type=int, default=32, help="held-out pairs of the trainings")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 1 to N")
    parser.add_argument("--json", action="store_true", help="everything as one last line")
    options = parser.parse_args()
    home = make_home(options.home)
    folder, stamp = calibrated_model(home)
    with trained_on_cpu():
        losses = measure(home, folder, options.tokens)
    runs = train(home, folder, options) if options.train else {}
    if options.json:
        print(json.dumps({"calibration": stamp, "losses": losses, "runs": runs}))


if __name__ == "__main__":
    main()
