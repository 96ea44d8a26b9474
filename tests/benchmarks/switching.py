"""How long it takes to switch between two adapters held on one loaded base.

    python tests/benchmarks/switching.py [--model ID] [--quantization none|int8|nf4] [--repeats N] [--json]

Two adapters of each family are made on the base, saved and loaded side by side, then switched in turn. A switch is measured alone, and
together with the forward pass of one token that shows the other adapter answers. Loading one more adapter from disk is measured too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from studio.core.paths import StudioHome
from studio.core.spec import RunSpec
from studio.methods import get_method
from studio.methods.adapters import load_adapter, save_adapter, switch_adapter
from studio.models.load import load_base
from studio.models.starter import ensure_starter_model

SETTINGS = {
    "lora": {"family": "lora", "rank": 8},
    "adapter": {"family": "adapter", "bottleneck": 64, "placement": "houlsby"},
    "prefix": {"family": "prefix", "virtual_tokens": 16},
}
NAMES = ("first", "second")


def main() -> None:
    arguments = _parse()
    home = StudioHome.find(arguments.home)
    if arguments.model == "starter":
        ensure_starter_model(home, lambda text: print(text, file=sys.stderr))
    rows = [measure_family(family, arguments, home) for family in SETTINGS]
    if arguments.json:
        print(json.dumps({"model": arguments.model, "quantization": arguments.quantization, "families": rows}, indent=2))
        return
    print(f"{arguments.model}, {arguments.quantization}; milliseconds, median (worst) of {arguments.repeats}")
    for row in rows:
        print(f"{row['family']:8} switch {row['switch_ms']:7.2f} ({row['switch_worst_ms']:.2f})   load from disk {row['load_ms']:7.1f}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--home", type=Path, default=None, help="the studio's home, where the starter model is kept")
    parser.add_argument("--quantization", default="none", choices=["none", "int8", "nf4", "fp4"])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure_family(family: str, arguments: argparse.Namespace, home: StudioHome) -> dict[str, Any]:
    """Times in milliseconds for one family on a freshly loaded base."""
    spec = RunSpec.parse({"model": {"id": arguments.model, "quantization": arguments.quantization}, "method": SETTINGS[family]})
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_base(spec, home)
        model = get_method(family).attach(loaded.model, spec, loaded.tokenizer)
        for seed, name in enumerate(NAMES):
            _randomise(model, seed)
            save_adapter(model, Path(folder) / name, spec)
        del model
        loaded = load_base(spec, home)
        model = load_adapter(loaded.model, Path(folder) / NAMES[0], NAMES[0])
        load_ms = _milliseconds(lambda: load_adapter(model, Path(folder) / NAMES[1], NAMES[1]))
        times = [_milliseconds(lambda name=NAMES[turn % 2]: switch_adapter(model, name)) for turn in range(arguments.repeats)]
        _check_that_answers_differ(model)
    return {
        "family": family,
        "switch_ms": round(statistics.median(times), 3),
        "switch_worst_ms": round(max(times), 3),
        "load_ms": round(load_ms, 1),
    }


def _randomise(model: torch.nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter.data, std=0.02)


def _milliseconds(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - started)


def _check_that_answers_differ(model: torch.nn.Module) -> None:
    """A switch that switches nothing would be fast."""
    logits = []
    for name in NAMES:
        switch_adapter(model, name)
        with torch.no_grad():
            logits.append(model(input_ids=torch.tensor([[1]], device=model.device)).logits)
    if torch.equal(*logits):
        raise SystemExit("The two adapters answer alike: nothing was switched.")


if __name__ == "__main__":
    main()
