"""From a base model and rows of training data to a folder in the home: the same model, its linear weights on NF4's grid.

The folder is an ordinary model: any dtype loads it, and loaded in NF4 (block 64, double quantization as asked for here) it computes with
exactly the weights chosen here. Norms, embeddings and the LM head are only rounded to bf16, in which the folder is saved. Only training
rows are used for rounding; what it brings is measured on held-out ones, through the same door as a run's base: in 16 bits, in NF4 as it
is, in NF4 once calibrated.
Within, it knows nothing of how a matrix is rounded (rounding.py) or a model walked through (layers.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.calibration.layers import round_layers
from studio.core.errors import DataError, ModelError, SpecError
from studio.core.files import read_json, write_json
from studio.core.paths import StudioHome
from studio.core.spec import DataSpec, ModelSpec, RunSpec
from studio.data.format import EncodedRow, encode_examples
from studio.data.load import load_data
from studio.export.source import new_folder
from studio.models.gguf import locked
from studio.models.load import LoadedBase, load_base, load_tokenizer, resolve_model
from studio.models.plan import check
from studio.models.shape import find_shape
from studio.train.batches import Collator, order_evaluation
from studio.train.loss import count_labels, sum_loss
from studio.train.process import trained_on_cpu

STAMP = "calibration.json"
"""In the folder: what it was made of, and the losses."""
ROWS, HELD_OUT_ROWS = 256, 32
"""Twice GPTQ's own 128 examples, which are four times as long: other text then loses less (docs/measurements.md)."""
BATCH = 8
SAVED_IN = torch.bfloat16


def calibration_spec(model: ModelSpec, data: DataSpec, rows: int = ROWS) -> RunSpec:
    """A QLoRA spec over the model and at most `rows` of the data."""
    limits = {"max_rows": min(rows, data.max_rows or rows), "max_held_out_rows": min(HELD_OUT_ROWS, data.max_held_out_rows)}
    return RunSpec.parse({
        "model": {**model.model_dump(mode="json"), "quantization": "nf4"}, "data": {**data.model_dump(mode="json"), **limits},
        "method": {"family": "qlora"},
    })  # fmt: skip


def target_folder(spec: RunSpec, home: StudioHome, out: str = "") -> Path:
    """`out`, or a folder among the home's models named after the model. Raises ModelError where it exists."""
    source = resolve_model(spec.model.id, home)
    if isinstance(source, Path) and (source / STAMP).exists():
        raise ModelError(f"{source.name} is calibrated already.", "Choose the model it was made from.")
    name = source.name if isinstance(source, Path) else source.rsplit("/", 1)[-1]
    target = Path(out).expanduser().absolute() if out else home.models / f"{name}-calibrated"
    if target.exists():
        raise ModelError(f"{target} exists already.", "Choose it as the base model; to make it anew, remove it first, or use --out.")
    return target


def calibrate(spec: RunSpec, home: StudioHome, target: Path, report: Callable[[float, str], None]) -> dict[str, Any]:
    """Make the folder `target`; what its calibration.json says. `report(share, phrase)` tells how far it is.

    Raises StudioError: a shape NF4 cannot hold, no rows, a model that cannot be loaded or is not made of linear layers, a full disk.
    """
    problems = check(spec, find_shape(spec.model.id, home))
    if problems:
        raise SpecError(problems)
    with trained_on_cpu(), locked(target):
        for left in target.parent.glob(f".{target.name}.*.part"):  # by one that was killed
            shutil.rmtree(left, ignore_errors=True)
        report(0, "reading the data")
        train, held_out, fingerprint = read_rows(spec, home)
        report(0.01, "loading the model")
        base = load_base(held_as(spec, "none", "bfloat16"), home)
        round_layers(
            base.model, list(batches_of(train, base)), spec.model.double_quantization,
            lambda done, every: report(0.05 + 0.7 * done / every, f"layer {done + 1} of {every}"),
        )  # fmt: skip
        with new_folder(target) as part:
            base.model.to(SAVED_IN).save_pretrained(part)
            base.tokenizer.save_pretrained(part)
            del base
            losses = measure(spec, home, part, held_out, report)
            stamp = {
                "source": spec.model.id, "grid": "nf4", "block": 64, "double_quantization": spec.model.double_quantization,
                "data": {"source": spec.data.source, "fingerprint": fingerprint, "rows": len(train),
                         "tokens": sum(len(row.ids) for row in train)},
                "held_out": {"rows": len(held_out), "loss": losses},
            }  # fmt: skip
            write_json(part / STAMP, stamp)
    return stamp


def read_rows(spec: RunSpec, home: StudioHome) -> tuple[list[EncodedRow], list[EncodedRow], str]:
    """Rows to calibrate with, rows to measure on, and the data's fingerprint. Raises DataError where there are none of either."""
    data, tokenizer = load_data(spec.data, home), load_tokenizer(spec.model, home)
    train, held_out = (encode_examples(rows, tokenizer, spec.training).rows for rows in (data.train, data.held_out))
    if not train or not held_out:
        raise DataError("No row is left to calibrate with, or none to measure on.", "Choose other data, or raise training.max_length.")
    return train, held_out, data.fingerprint


def held_as(spec: RunSpec, quantization: str, dtype: str = "") -> RunSpec:
    """The same with the base held in another way; LoRA, for QLoRA insists on 4 bits."""
    model = {**spec.model.model_dump(mode="json"), "quantization": quantization}
    return RunSpec.parse({**spec.to_json(), "model": {**model, "dtype": dtype or spec.model.dtype}, "method": {"family": "lora"}})


def batches_of(rows: Sequence[EncodedRow], base: LoadedBase) -> Iterator[tuple[Tensor, Tensor]]:
    """ids and which of them are text, (rows, positions), on the model's device."""
    collate = Collator(base.tokenizer.pad_token_id)
    for chosen in order_evaluation([len(row.ids) for row in rows], BATCH):
        ids = collate([rows[i] for i in chosen])["input_ids"]
        lengths = torch.tensor([len(rows[i].ids) for i in chosen])
        yield ids.to(base.device), (torch.arange(ids.shape[1]) < lengths[:, None]).to(base.device)


def measure(
    spec: RunSpec, home: StudioHome, folder: Path, rows: Sequence[EncodedRow], report: Callable[[float, str], None]
) -> dict[str, float]:
    """Held-out loss, nats per answer token, of the base unquantized, in NF4 as it is, and in NF4 from the calibrated folder."""
    calibrated = RunSpec.parse({**spec.to_json(), "model": {**spec.model.model_dump(mode="json"), "id": str(folder), "revision": ""}})
    held = {"unquantized": held_as(spec, "none"), "nf4": spec, "calibrated": calibrated}
    losses = {}
    for number, (name, one) in enumerate(held.items()):
        report(0.76 + 0.08 * number, f"measuring: {name}")
        losses[name] = held_out_loss(load_base(one, home), rows)
    return losses


@torch.no_grad()
def held_out_loss(base: LoadedBase, rows: Sequence[EncodedRow]) -> float:
    """Nats per answer token."""
    collate, total, count = Collator(base.tokenizer.pad_token_id), 0.0, 0
    for chosen in order_evaluation([len(row.ids) for row in rows], BATCH):
        batch = collate([rows[i] for i in chosen])
        total += float(sum_loss(base.model, batch["input_ids"].to(base.device), batch["labels"].to(base.device)))
        count += int(count_labels(batch["labels"]))
    return total / count


def read_stamp(folder: Path) -> dict[str, Any] | None:
    """What a calibrated folder says of itself; None for any other."""
    return read_json(folder / STAMP)
