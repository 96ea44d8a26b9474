"""Where the loss of a 4-bit base comes from: held-out loss with chosen parts of the starter model in NF4 and the rest in 16 bits.

    python tests/benchmarks/nf4_loss.py [--home HOME] [--tokens 5000] [--json]

Weights pass through bitsandbytes' own quantize_4bit and dequantize_4bit and are put back in bf16, which is what its 4-bit layer
multiplies with; the last lines check that against the model as a run loads it, in NF4 and in int8. Loss is nats per answer token on
held-out starter pairs, without any training. After the whole model in several types: a control in which each block of 64 weights gets
normal noise of the size of its own NF4 error, each kind of module alone, each sixth of the depth alone, and recipes that keep in 16
bits what costs most per weight, until all but one part is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from bitsandbytes import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from studio.core.paths import StudioHome
from studio.core.spec import RunSpec
from studio.data.format import EncodedRow, encode_examples
from studio.data.load import load_data
from studio.data.starter import ensure_starter_data
from studio.methods.frozen_base import BLOCK, layer_linears
from studio.models.load import load_base
from studio.models.starter import ensure_starter_model
from studio.train.batches import Collator, order_evaluation
from studio.train.loss import count_labels, sum_loss
from studio.train.process import trained_on_cpu

BATCH = 8
DEPTHS = 6
"""Groups of neighbouring layers."""
Part = tuple[int, str]
"""(layer, 'q_proj')."""
Change = Callable[[torch.Tensor], torch.Tensor]


def nf4(weight: torch.Tensor, block: int = 64, kind: str = "nf4", double: bool = True) -> torch.Tensor:
    """A weight as it comes back from 4 bits, in its own dtype."""
    codes, state = functional.quantize_4bit(weight, blocksize=block, quant_type=kind, compress_statistics=double)
    return functional.dequantize_4bit(codes, state)


def noisy(weight: torch.Tensor) -> torch.Tensor:
    """Normal noise of the size of NF4's error, block by block: the same loss would mean that the size matters, not the grid."""
    error = (nf4(weight) - weight).float().reshape(-1, BLOCK)
    noise = torch.randn(error.shape, generator=torch.Generator().manual_seed(0))
    noise *= error.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
    return weight + noise.reshape(weight.shape).to(weight.dtype)


@dataclass
class Bench:
    """The 16-bit model with its weights at hand, the rows, and what was measured."""

    model: Any
    weights: dict[Part, torch.Tensor]
    rows: list[EncodedRow]
    pad_id: int
    tokens: int
    base: float = 0.0
    found: list[dict[str, Any]] = field(default_factory=list)

    def loss(self) -> float:
        return held_out_loss(self.model, self.rows, self.pad_id)

    def measure(self, group: str, name: str, parts: Iterable[Part], change: Change = nf4) -> float:
        """The loss with `parts` changed; all weights are put back. Prints and keeps the row."""
        chosen = set(parts)
        modules = {part_of(name): module for name, module in layer_linears(self.model).items()}
        for part in chosen:
            modules[part].weight.data = change(self.weights[part])
        loss = self.loss()
        for part in chosen:
            modules[part].weight.data = self.weights[part]
        share = sum(self.weights[part].numel() for part in chosen) / sum(weight.numel() for weight in self.weights.values())
        self.base = self.base or loss
        self.found.append({"group": group, "name": name, "share": share, "loss": loss, "increase": loss / self.base - 1})
        print(f"{group:8} {name:62} {100 * share:5.1f} % of weights  {loss:.4f}  {100 * (loss / self.base - 1):+6.2f} %", flush=True)
        return loss

    def worst_first(self, group: str) -> list[str]:
        """Names of a group's rows, by increase of the loss per changed weight."""
        rows = [row for row in self.found if row["group"] == group]
        return [row["name"] for row in sorted(rows, key=lambda row: row["increase"] / row["share"], reverse=True)]


def part_of(name: str) -> Part:
    """'model.layers.3.mlp.up_proj' -> (3, 'up_proj')."""
    pieces = name.split(".")
    return next(int(piece) for piece in pieces if piece.isdigit()), pieces[-1]


@torch.no_grad()
def held_out_loss(model: Any, rows: list[EncodedRow], pad_id: int) -> float:
    """Nats per answer token."""
    collate, total, count = Collator(pad_id), 0.0, 0
    for chosen in order_evaluation([len(row.ids) for row in rows], BATCH):
        batch = collate([rows[i] for i in chosen])
        total += float(sum_loss(model, batch["input_ids"], batch["labels"]))
        count += int(count_labels(batch["labels"]))
    return total / count


def make_bench(home: StudioHome, tokens: int) -> Bench:
    spec = RunSpec.parse({"model": {"dtype": "bfloat16"}, "data": {"max_held_out_rows": 1000}})
    base = load_base(spec, home)
    encoded = encode_examples(load_data(spec.data, home).held_out, base.tokenizer, spec.training)
    rows, count = [], 0
    for row in encoded.rows:
        if count < tokens:
            rows.append(row)
            count += sum(label != -100 for label in row.labels[1:])
    weights = {part_of(name): module.weight.data for name, module in layer_linears(base.model).items()}
    return Bench(base.model, weights, rows, base.tokenizer.pad_token_id, count)


def load_quantized(home: StudioHome, bench: Bench, quantization: str) -> float:
    """The loss of the base as a run loads it: bitsandbytes' own layers."""
    spec = RunSpec.parse({"model": {"dtype": "bfloat16", "quantization": quantization}})
    return held_out_loss(load_base(spec, home).model, bench.rows, bench.pad_id)


def run(bench: Bench) -> None:
    parts = list(bench.weights)
    bench.measure("all", "16 bits", [])
    bench.measure("all", "NF4", parts)
    bench.measure("all", "NF4, block 32", parts, lambda weight: nf4(weight, block=32))
    bench.measure("all", "NF4, absmax in fp32", parts, lambda weight: nf4(weight, double=False))
    bench.measure("all", "FP4", parts, lambda weight: nf4(weight, kind="fp4"))
    bench.measure("all", "noise of NF4's size", parts, noisy)
    kinds = {kind: [part for part in parts if part[1] == kind] for _, kind in parts}
    count = 1 + max(layer for layer, _ in parts)
    depths = {
        f"layers {start} to {end - 1}": [part for part in parts if start <= part[0] < end]
        for start, end in ((count * i // DEPTHS, count * (i + 1) // DEPTHS) for i in range(DEPTHS))
    }
    for group, members in (("kind", kinds), ("depth", depths)):
        for name, chosen in members.items():
            bench.measure(group, name, chosen)
    for group, members in (("kind", kinds), ("depth", depths)):
        order = bench.worst_first(group)
        for kept in range(1, len(order)):
            bench.measure("recipe", f"16 bits: {', '.join(order[:kept])}", [part for name in order[kept:] for part in members[name]])
    bench.measure("recipe", "16 bits: first and last layer", [part for part in parts if part[0] not in (0, count - 1)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="the studio's home, where the starter model and data are kept")
    parser.add_argument("--tokens", type=int, default=5000, help="answer tokens, at least")
    parser.add_argument("--json", action="store_true", help="everything as one last line")
    options = parser.parse_args()
    home = StudioHome.find(options.home)
    ensure_starter_model(home, print)
    ensure_starter_data(home, lambda _: None)
    with trained_on_cpu():
        bench = make_bench(home, options.tokens)
        print(f"{bench.tokens:,} answer tokens of {len(bench.rows)} held-out pairs")
        run(bench)
        loaded = {quantization: load_quantized(home, bench, quantization) for quantization in ("nf4", "int8")}
    for quantization, loss in loaded.items():
        print(f"as a run loads {quantization}: {loss:.4f}  {100 * (loss / bench.base - 1):+.2f} %")
    if options.json:
        print(json.dumps({"tokens": bench.tokens, "rows": bench.found, "loaded": loaded}))


if __name__ == "__main__":
    main()
