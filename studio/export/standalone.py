"""Train the run this folder was exported from, without PEFT Studio: `python train.py` in this folder.

Needs torch, transformers and peft (versions.txt has those of the original run); bitsandbytes for 4- and 8-bit bases. Reads

    run.json                settings
    adapter_config.json     what is trained, in PEFT's words
    train.jsonl             the training rows as token ids and labels (-100: not trained on), in the original order
    held_out.jsonl          the rows the held-out loss is measured on
    start.safetensors       how the adapter began, for starts that are computed from text or data

and writes the adapter into ./adapter. On the same machine the losses are those of the run, up to the rounding of the base's precision:
same rows, same batches, same seed, same optimizer and schedule.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch.nn import functional
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, get_scheduler, set_seed

HERE = Path(__file__).resolve().parent
IGNORED = -100
WINDOW_BATCHES = 50
Row = dict[str, list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Reproduce a PEFT Studio run.")
    parser.add_argument("--model", help="the base model: a hub id or a folder; the run's own when left out")
    parser.add_argument("--out", type=Path, default=HERE / "adapter", help="where the adapter goes")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    run = json.loads((HERE / "run.json").read_text(encoding="utf-8"))
    if run["device"] == "cpu" and torch.backends.cpu.get_cpu_capability() != "DEFAULT":
        torch.set_flush_denormal(True)
    set_seed(run["seed"])
    model = attach(load_base(options.model or run["model"], run), run)
    result = train(model, read_rows("train.jsonl"), read_rows("held_out.jsonl"), run)
    model.save_pretrained(options.out, save_embedding_layers=False)
    if options.json:
        print(json.dumps(result))


def read_rows(name: str) -> list[Row]:
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]


def load_base(name: str, run: dict[str, Any]) -> torch.nn.Module:
    """The frozen base, held as it was in the run."""
    dtype = getattr(torch, run["dtype"])
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": run["attention"], "trust_remote_code": run["trust_remote_code"]}
    if run["quantization"] == "int8":
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head"])
    elif run["quantization"] != "none":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=run["quantization"], bnb_4bit_use_double_quant=run["double_quantization"],
            bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=["lm_head"],
        )  # fmt: skip
    if run["quantization"] != "none" or run["device"] != "cpu":
        options["device_map"] = {"": run["device"]}
    model = AutoModelForCausalLM.from_pretrained(name, revision=run["revision"] or "main", **options)
    for module in model.modules():
        # Else bitsandbytes repacks 4-bit weights in place on some CPUs at the first evaluation, and training loses gradients.
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False
    model.requires_grad_(False)
    return model.eval()


def attach(model: torch.nn.Module, run: dict[str, Any]) -> PeftModel:
    """The adapter, trained in fp32."""
    if run["family"] == "adapter":
        importlib.import_module("bottleneck_tuner")  # registers the bottleneck adapter with PEFT
    config = PeftConfig.from_pretrained(str(HERE))
    config.inference_mode = False
    adapted = get_peft_model(model, config)
    trained = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    for parameter in trained.values():
        parameter.data = parameter.data.float()
    if (HERE / "start.safetensors").exists():
        from safetensors.torch import load_file

        for name, tensor in load_file(HERE / "start.safetensors").items():
            trained[name].data.copy_(tensor)
    if run["gradient_checkpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    model.config.use_cache = False
    return adapted


def train(model: PeftModel, rows: list[Row], held_out: list[Row], run: dict[str, Any]) -> dict[str, Any]:
    """Losses by step, before and after."""
    set_seed(run["seed"])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(model, run)
    schedule = get_scheduler(run["schedule"], optimizer, run["warmup_steps"], run["steps"])
    evals = {0: held_out_loss(model, held_out, run)}
    print(f"step 0/{run['steps']}  held-out loss {evals[0]:.6f}", flush=True)
    losses: list[float] = []
    model.train()
    for step, batches in enumerate(steps(rows, run), 1):
        counted = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches)
        total = 0.0
        for batch in batches:
            loss = sum_loss(model, batch, run) / counted
            loss.backward()
            total += float(loss)
        if run["max_grad_norm"]:
            torch.nn.utils.clip_grad_norm_(trained, run["max_grad_norm"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
        print(f"step {step}/{run['steps']}  loss {total:.6f}", flush=True)
        if step % run["eval_every"] == 0 or step == run["last_step"]:
            evals[step] = held_out_loss(model, held_out, run)
            print(f"step {step}/{run['steps']}  held-out loss {evals[step]:.6f}", flush=True)
        if step == run["last_step"]:
            break
    return {"losses": losses, "eval_losses": evals, "eval_loss_before": evals[0], "eval_loss_after": evals[max(evals)]}


def make_optimizer(model: PeftModel, run: dict[str, Any]) -> torch.optim.Optimizer:
    """AdamW; with LoRA+ the learning rate of B is `lora_plus_ratio` times that of A."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for name, p in named if (".lora_B." in name) is is_b], "lr": run["learning_rate"] * (ratio if is_b else 1)}
        for ratio in [run["lora_plus_ratio"]]
        for is_b in (False, True)
    ]
    groups = [{**group, "weight_decay": run["weight_decay"]} for group in groups if group["params"]]
    if run["optimizer"] == "adamw":
        return torch.optim.AdamW(groups, lr=run["learning_rate"], fused=True)
    import bitsandbytes

    paged = run["optimizer"] == "paged_adamw_8bit" and torch.cuda.is_available()
    return (bitsandbytes.optim.PagedAdamW8bit if paged else bitsandbytes.optim.AdamW8bit)(groups, lr=run["learning_rate"])


def steps(rows: list[Row], run: dict[str, Any]) -> Iterator[list[dict[str, torch.Tensor]]]:
    """The batches of one optimizer step after the other, epoch after epoch; the last step of an epoch may hold fewer."""
    lengths = [len(row["ids"]) for row in rows]
    for epoch in range(math.ceil(run["steps"]) + 1):
        batches = order_batches(lengths, run["batch_size"], run["padding"], run["seed"] * 1_000_003 + epoch)
        torch.empty((), dtype=torch.int64).random_()  # torch's DataLoader draws one number an epoch: dropout's masks depend on it
        for start in range(0, len(batches), run["accumulation"]):
            yield [collate([rows[i] for i in batch], run) for batch in batches[start : start + run["accumulation"]]]


def order_batches(lengths: list[int], batch_size: int, padding: str, seed: int) -> list[list[int]]:
    """Shuffled; where grouped, sorted by length within windows, and the batches shuffled again."""
    draw = random.Random(seed)
    rows = list(range(len(lengths)))
    draw.shuffle(rows)
    if padding == "grouped":
        window = batch_size * WINDOW_BATCHES
        rows = [row for start in range(0, len(rows), window) for row in sorted(rows[start : start + window], key=lengths.__getitem__)]
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    if padding == "grouped":
        draw.shuffle(batches)
    return batches


def collate(rows: list[Row], run: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Padded on the right, where a causal model's real positions cannot see it; padding has no label."""
    longest = max(len(row["ids"]) for row in rows)
    width = run["fixed_length"] if run["fixed_length"] >= longest else -(-longest // 16) * 16  # few widths: each costs memory on a CPU
    pad = {"ids": run["pad_id"], "labels": IGNORED}
    return {
        name: torch.tensor([row[name] + [pad[name]] * (width - len(row[name])) for row in rows], device=run["device"])
        for name in ("ids", "labels")
    }


def sum_loss(model: PeftModel, batch: dict[str, torch.Tensor], run: dict[str, Any]) -> torch.Tensor:
    """Sum of the cross-entropies at trained-on positions, in nats."""
    with autocast(run):
        logits = model(input_ids=batch["ids"], use_cache=False).logits
    targets = batch["labels"][:, 1:]
    kept = targets != IGNORED
    return functional.cross_entropy(logits[:, :-1][kept].float(), targets[kept], reduction="sum")


def autocast(run: dict[str, Any]) -> Any:
    compute = getattr(torch, run["compute_dtype"])
    return contextlib.nullcontext() if compute == torch.float32 else torch.autocast(run["device"].split(":")[0], dtype=compute)


@torch.no_grad()
def held_out_loss(model: PeftModel, rows: list[Row], run: dict[str, Any]) -> float:
    """Nats per held-out token that is trained on."""
    was_training = model.training
    model.eval()
    ordered = sorted(rows, key=lambda row: len(row["ids"]), reverse=True)
    total, count = 0.0, 0
    for start in range(0, len(ordered), run["batch_size"]):
        batch = collate(ordered[start : start + run["batch_size"]], run)
        total += float(sum_loss(model, batch, run))
        count += int((batch["labels"][:, 1:] != IGNORED).sum())
    model.train(was_training)
    return total / count


if __name__ == "__main__":
    main()
