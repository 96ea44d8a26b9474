"""How fast training is, against the lecture's recipe and a plain loop, on the same pairs in one run, and how well each learnt.

    python tests/benchmarks/training.py [--home HOME] [--pairs N] [--passes N] [--json]

SmolLM2-135M, LoRA rank 8 on all linear layers, batches of 8, AdamW, one learning rate, starter pairs:
- lecture: fp32, every example padded to 512, dropout 0.05, the model's own loss;
- plain:   bf16 base, PEFT's fp32 adapter with dropout 0.05, random batches padded to their longest example, the model's own loss;
- studio:  the product's own engine with its defaults.

One batch of each in turn, so that whatever else the machine does falls on all three. Every recipe trains on the same pairs once; then
its held-out loss is taken (nats per answer token). plain and studio go on for further passes that only give more timings: their
rate is the median over passes, the lecture's, whose batches are all of one size, from its median batch. Reading the data, loading
the model and a first small batch of each, after which the weights are put back, are not timed.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from studio.core.paths import RunPaths, StudioHome
from studio.core.spec import RunSpec
from studio.data.format import EncodedRow, encode_examples
from studio.data.load import load_data
from studio.data.starter import ensure_starter_data
from studio.methods import get_method
from studio.models.load import load_base, load_tokenizer
from studio.models.starter import ensure_starter_model
from studio.train.batches import Collator, order_batches, order_evaluation
from studio.train.checkpoint import Origin
from studio.train.loss import count_labels, sum_loss
from studio.train.process import trained_on_cpu
from studio.train.run import attach_method, build_engine

BATCH = 8
LENGTH = 512
LEARNING_RATE = 1e-3
HELD_OUT = 48
RECIPES = {
    "lecture": {"model": {"dtype": "float32"}, "dropout": 0.05, "padding": "fixed"},
    "plain": {"model": {"dtype": "bfloat16"}, "dropout": 0.05, "padding": "batch"},
    "studio": {"model": {"dtype": "auto"}, "dropout": 0.0, "padding": "grouped"},
}
Step = Callable[[list[EncodedRow]], None]


@dataclass
class Recipe:
    """One way to train: its batches of an epoch, its step, and what was measured."""

    name: str
    model: Any
    step: Step
    batches: list[list[EncodedRow]]
    seconds: list[list[float]] = field(default_factory=list)
    eval_loss: float = 0.0

    def train_batch(self, number: int) -> None:
        started = time.perf_counter()
        self.step(self.batches[number])
        self.seconds[-1].append(time.perf_counter() - started)

    @property
    def samples_per_s(self) -> float:
        if self.name == "lecture":
            return BATCH / statistics.median(self.seconds[0])
        return sum(map(len, self.batches)) / statistics.median(map(sum, self.seconds))


def make_spec(name: str) -> RunSpec:
    recipe = RECIPES[name]
    return RunSpec.parse(
        {
            "model": recipe["model"],
            "data": {"max_rows": 0, "max_held_out_rows": HELD_OUT},
            "method": {"family": "lora", "rank": 8, "alpha": 16, "targets": "all-linear", "dropout": recipe["dropout"]},
            "training": {
                "batch_size": BATCH,
                "max_length": LENGTH,
                "padding": recipe["padding"],
                "learning_rate": LEARNING_RATE,
                "schedule": "constant",
                "warmup": 0,
                "max_grad_norm": 1.0,
            },
        }
    )


def make_ordinary_step(name: str, home: StudioHome, pad_id: int) -> tuple[Any, Step]:
    """A loop as most people write it: the model's own forward and loss, attention mask, AdamW as it comes."""
    spec = make_spec(name)
    torch.manual_seed(0)
    base = load_base(spec, home)
    model = get_method("lora").attach(base.model, spec, base.tokenizer).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    collate = Collator(pad_id, LENGTH if spec.training.padding == "fixed" else 0)

    def step(rows: list[EncodedRow]) -> None:
        batch = collate(rows)
        lengths = torch.tensor([[len(row.ids)] for row in rows])
        mask = (torch.arange(batch["input_ids"].shape[1])[None] < lengths).long()
        model(input_ids=batch["input_ids"], attention_mask=mask, labels=batch["labels"]).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return model, step


def make_studio_step(home: StudioHome, data: tuple[Any, Any], folder: Path) -> tuple[Any, Step]:
    """The product's engine: its method, its optimizer, its training step."""
    spec = make_spec("studio")
    torch.manual_seed(0)
    base = load_base(spec, home)
    model, material = attach_method(base, *data, spec)
    engine = build_engine(model, spec, RunPaths(folder), material, Origin("", "", ""), None)
    optimizer = engine.create_optimizer()
    engine.create_scheduler(num_training_steps=1000, optimizer=optimizer)

    def step(rows: list[EncodedRow]) -> None:
        batch = engine.collator(rows)
        engine.training_step(model, batch, count_labels(batch["labels"]))
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.training.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    return model, step


@torch.no_grad()
def held_out_loss(model: Any, rows: list[EncodedRow], pad_id: int) -> float:
    """Nats per answer token; every recipe is measured by the same arithmetic, in the precision it holds its base in."""
    collate, total, count = Collator(pad_id), 0.0, 0
    model.eval()
    for chosen in order_evaluation([len(row.ids) for row in rows], BATCH):
        batch = collate([rows[i] for i in chosen])
        total += float(sum_loss(model, batch["input_ids"], batch["labels"]))
        count += int(count_labels(batch["labels"]))
    model.train()
    return total / count


def warm_up(recipe: Recipe) -> None:
    """A step on four rows, so that no first allocation is timed; the weights are put back, one step of moments stays in all three."""
    before = {name: p.detach().clone() for name, p in recipe.model.named_parameters() if p.requires_grad}
    recipe.step(recipe.batches[0][:4])
    with torch.no_grad():
        for name, parameter in recipe.model.named_parameters():
            if name in before:
                parameter.copy_(before[name])


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    home = StudioHome.find(arguments.home)
    ensure_starter_model(home, lambda _: None)
    ensure_starter_data(home, lambda _: None)
    spec = make_spec("studio")
    tokenizer = load_tokenizer(spec.model, home)
    data = load_data(spec.data, home)
    train = encode_examples(data.train, tokenizer, spec.training)
    held_out = encode_examples(data.held_out, tokenizer, spec.training)
    stride = len(train.rows) // arguments.pairs
    rows = train.rows[::stride][: arguments.pairs]
    lengths = [len(row.ids) for row in rows]
    recipes = []
    for name, settings in RECIPES.items():
        make_step = (
            make_studio_step(home, (train, held_out), folder)
            if name == "studio"
            else make_ordinary_step(name, home, tokenizer.pad_token_id)
        )
        batches = [[rows[i] for i in batch] for batch in order_batches(lengths, BATCH, settings["padding"], seed=1)]
        recipes.append(Recipe(name, *make_step, batches))
    before = held_out_loss(recipes[-1].model, held_out.rows, tokenizer.pad_token_id)
    for recipe in recipes:
        warm_up(recipe)
    for number in range(arguments.passes):
        train_one_pass([recipe for recipe in recipes if number == 0 or recipe.name != "lecture"])
        if number == 0:
            for recipe in recipes:
                recipe.eval_loss = held_out_loss(recipe.model, held_out.rows, tokenizer.pad_token_id)
            recipes[0].model = None  # 540 MB of fp32 weights
            gc.collect()
    return summarise(recipes, before, rows)


def train_one_pass(recipes: list[Recipe]) -> None:
    for recipe in recipes:
        recipe.seconds.append([])
    for number in range(len(recipes[0].batches)):
        for recipe in recipes:
            recipe.train_batch(number)


def summarise(recipes: list[Recipe], before: float, rows: list[EncodedRow]) -> dict[str, Any]:
    rate = {recipe.name: recipe.samples_per_s for recipe in recipes}
    loss = {recipe.name: recipe.eval_loss for recipe in recipes}
    tokens = sum(len(row.ids) for row in rows)
    return {
        "vs_lecture": round(rate["studio"] / rate["lecture"], 3),
        "vs_plain": round(rate["studio"] / rate["plain"], 3),
        "samples_per_s": {name: round(value, 3) for name, value in rate.items()},
        "tokens_per_s": {name: round(value * tokens / len(rows), 1) for name, value in rate.items()},
        "eval_loss_before": round(before, 4),
        "eval_loss": {name: round(value, 4) for name, value in loss.items()},
        "eval_loss_vs_lecture": round(loss["studio"] / loss["lecture"], 4),
        "eval_loss_vs_plain": round(loss["studio"] / loss["plain"], 4),
        "pairs": len(rows),
        "mean_tokens": round(tokens / len(rows), 1),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="the studio's home, where the starter model and data are kept")
    parser.add_argument("--pairs", type=int, default=32, help="training pairs, a multiple of 8")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, trained_on_cpu():
        found = measure(arguments, Path(folder))
    if arguments.json:
        print(json.dumps(found))
        return
    for name, rate in found["samples_per_s"].items():
        print(f"{name:8} {rate:6.2f} samples/s  {found['tokens_per_s'][name]:7.1f} tokens/s  held-out loss {found['eval_loss'][name]:.4f}")
    print(f"held-out loss before: {found['eval_loss_before']:.4f}")
    print(f"vs_lecture {found['vs_lecture']:.2f}   vs_plain {found['vs_plain']:.2f}")


if __name__ == "__main__":
    main()
